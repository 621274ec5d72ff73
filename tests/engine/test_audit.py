"""The auditor without a file: what it finds in rows that do not follow from each other."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from support import NOW, Ledger, account_on, enrolment, event, plan_of
from tallyd.engine.audit.auditor import Auditor, Basis, Findings
from tallyd.engine.costs import CostRule, CostSource, price_version
from tallyd.engine.counters import Counter, CounterKey
from tallyd.engine.rows import ChargeRow, EventRow, RollupDelta, RollupKey
from tallyd.model.customer import Customer, CustomerRef, RefKind

PLAN = plan_of('{ model = "usage", usage_unit_type = "c", price_per_unit = "0.1" }')
ACME = CustomerRef(RefKind.REFERENCE, "acme").customer_id()


def customer(**fields: Any) -> Customer:
    """The customer of these events."""
    given = {"number": 1, "id": ACME, "reference": "acme", "stripe_id": None, "created_at": NOW}
    return Customer(**{**given, **fields})


def basis_on(findings: Findings, owner: Customer | None = None, **subscription: Any) -> Basis:
    """One customer on one plan."""
    basis = Basis(findings)
    basis.customer(owner or customer())
    basis.plan(PLAN)
    basis.subscription(msgspec.structs.replace(enrolment(PLAN).subscription, **subscription))
    return basis


def audited(basis: Basis, findings: Findings, row: EventRow, charges: list[ChargeRow]) -> Auditor:
    """An auditor that has seen one event."""
    auditor = Auditor(basis, {}, findings)
    auditor.event(row, charges)
    return auditor


def recorded(**fields: Any) -> Ledger:
    """One event on the plan."""
    ledger = Ledger(account_on(PLAN))
    ledger.record(event(**{"feature_key": "api", "usage_units": 2, "customer_reference_id": "acme", **fields}))
    return ledger


def places(findings: Findings) -> set[tuple[str, str]]:
    """What was found, where."""
    return {(finding.kind, finding.where) for finding in findings.all}


def test_a_true_event_has_no_findings() -> None:
    """An event as it was recorded follows from its body, its plan and its subscription."""
    findings, ledger = Findings(), recorded()
    audited(basis_on(findings), findings, ledger.rows[0], ledger.charges)
    assert findings.all == []


@pytest.mark.parametrize("fields", [{"starts_at": NOW + 1}, {"ends_at": NOW}, {"customer": 2}])
def test_an_event_outside_its_subscription_is_found(fields: dict[str, Any]) -> None:
    """The subscription must be the customer's own and cover the event's time; its end is not part of it."""
    findings, ledger = Findings(), recorded()
    audited(basis_on(findings, **fields), findings, ledger.rows[0], ledger.charges)
    assert ("subscription", "event 1 subscription 1") in places(findings)


def test_an_event_before_the_subscription_was_made_is_fine() -> None:
    """An event that is on no subscription has no charges, whatever covers its time now."""
    findings, ledger = Findings(), Ledger(account_on())
    ledger.record(event(feature_key="api", usage_units=2))
    audited(basis_on(findings), findings, ledger.rows[0], [])
    assert findings.all == []


def test_a_missing_charge_is_found() -> None:
    """The plan counts the event, so there must be a charge for it."""
    findings, ledger = Findings(), recorded()
    audited(basis_on(findings), findings, ledger.rows[0], [])
    assert ("charge", "event 1") in places(findings)


def test_an_event_whose_body_names_someone_else_is_found() -> None:
    """A customer who changed places with another does not fit the events' bodies."""
    findings, ledger = Findings(), recorded()
    other = CustomerRef(RefKind.REFERENCE, "other").customer_id()
    basis = basis_on(findings, customer(id=other, reference="other"))
    audited(basis, findings, ledger.rows[0], ledger.charges)
    assert places(findings) == {("event", "1")}


@pytest.mark.parametrize("fields", [{"reference": "other"}, {"stripe_id": "other"}, {"id": "other"}])
def test_a_customer_whose_id_is_not_of_its_names_is_found(fields: dict[str, Any]) -> None:
    """The id is derived from the name the customer came in by, so names cannot be swapped."""
    findings = Findings()
    Basis(findings).customer(customer(**fields))
    assert places(findings) == {("customer", "1")}


def test_a_price_version_is_named_by_its_content() -> None:
    """The number of a price version is its content's hash."""
    findings = Findings()
    version = price_version(CostSource.RULE, CostRule(model="simple", cost_per_unit=Decimal(2)))
    basis = Basis(findings)
    basis.price_version(version.id, version.content)
    assert findings.all == []
    basis.price_version(version.id, version.content.replace("2", "3"))
    assert places(findings) == {("price version", str(version.id))}


def test_rows_of_zeros_that_nothing_explains_are_found() -> None:
    """A counter or roll-up row does not come from nowhere, even when it adds nothing."""
    findings = Findings()
    auditor = Auditor(Basis(findings), {}, findings)
    auditor.counters.compare(1, CounterKey(1, "api", 0), Counter())
    auditor.rollup(RollupKey(0, 1, "api", "", "", "call", "USD"), RollupDelta())
    assert {finding.kind for finding in findings.all} == {"counter", "rollup"}


def test_after_a_damaged_event_the_next_is_checked() -> None:
    """One body that cannot be read is one event's finding; the rest is audited."""
    findings, ledger = Findings(), recorded()
    ledger.record(event(feature_key="api", usage_units=2))
    auditor = Auditor(basis_on(findings), {}, findings)
    auditor.event(msgspec.structs.replace(ledger.rows[0], body="{"), ledger.charges[:1])
    auditor.event(ledger.rows[1], ledger.charges[1:])
    assert auditor.events == 2
    assert ("event", "1") in places(findings)
    assert ("charge", "event 2 feature api") in places(findings), "what was used before it is not known any more"
