"""What a request about credits may say in the native words, over HTTP and the socket alike: bodies, and checks."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.api import crediting, entitling
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.credits.definitions import PRIORITY_MAX
from tallyd.engine.events import check_identifier, id_ref
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import GrantType
from tallyd.model.customer import CustomerRef
from tallyd.model.moments import LATEST_US, parse_iso
from tallyd.model.money import number_problem
from tallyd.model.problems import invalid

METADATA_PAIRS_MAX: Final = 50
METADATA_KEY_CHARACTERS_MAX: Final = 40
METADATA_VALUE_CHARACTERS_MAX: Final = 500
DESCRIPTION_CHARACTERS_MAX: Final = 1_000


class _Input(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A field nobody knows is a mistake: it would have been meant to matter."""


class GrantInput(_Input, frozen=True, kw_only=True):
    """Body of POST …/grants, params of `credits.grant`: into a pool, or the customer's pool of a credit model."""

    amount: Decimal
    credit_pool_id: str | None = None
    customer_reference_id: str | None = None
    customer_id: str | None = None
    credit_model_key: str | None = None
    credit_model_id: str | None = None
    grant_type: GrantType = GrantType.MANUAL
    expires_at: str | None = None
    priority: int = 0
    description: str | None = None
    metadata: dict[str, Any] | None = None
    unit_price: Decimal | None = None
    currency: str | None = None
    idempotency_key: str | None = None


class DeductionInput(_Input, frozen=True, kw_only=True):
    """Body of POST …/deductions, params of `credits.deduct`."""

    credit_pool_id: str
    amount: Decimal
    customer_reference_id: str | None = None
    customer_id: str | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    idempotency_key: str | None = None


class PurchaseInput(_Input, frozen=True, kw_only=True):
    """Body of POST /credits/purchases. `paymentMethodId` is taken and not used: payment is collected outside."""

    credit_pool_id: str
    credits: Decimal
    customer_reference_id: str | None = None
    payment_method_id: str | None = None
    idempotency_key: str | None = None


class PoolInput(_Input, frozen=True, kw_only=True):
    """Body of POST …/pools: a further pool of a credit model."""

    customer_reference_id: str | None = None
    customer_id: str | None = None
    credit_model_key: str | None = None
    credit_model_id: str | None = None
    name: str | None = None
    idempotency_key: str | None = None


decode_grant: Final = Decoder(GrantInput)
decode_deduction: Final = Decoder(DeductionInput)
decode_purchase: Final = Decoder(PurchaseInput)
decode_pool: Final = Decoder(PoolInput)


def customer_asked(reference: str | None, customer_id: str | None) -> CustomerRef | None:
    """Return whom a request names, if anybody; a `customerId` wins, as it does in events.

    Raises:
        ProblemError: not something that can be an id.
    """
    if customer_id is not None:
        return id_ref(customer_id)
    return None if reference is None else entitling.by_reference(reference)


def customer_needed(reference: str | None, customer_id: str | None) -> CustomerRef:
    """Return whom a request names.

    Raises:
        ProblemError: nobody.
    """
    ref = customer_asked(reference, customer_id)
    if ref is None:
        raise invalid("customerReferenceId", "is required, or customerId")
    return ref


def model_asked(core: Core, key: str | None, model_id: str | None) -> CreditModel:
    """Return the credit model that a request names by id or key.

    Raises:
        ProblemError: none, or one that does not exist.
    """
    if model_id is not None:
        return crediting.find_model(core, model_id, "creditModelId")
    if key is not None:
        return crediting.find_model(core, key)
    raise invalid("creditModelKey", "is required, or creditModelId")


def check_note(description: str | None, metadata: dict[str, Any] | None) -> None:
    """Check what people and apps may write beside a movement: bounded (P11), and kept as it was sent.

    Raises:
        ProblemError: names the field.
    """
    if description is not None:
        check_identifier("description", description, DESCRIPTION_CHARACTERS_MAX)
    if metadata is None:
        return
    if len(metadata) > METADATA_PAIRS_MAX:
        raise invalid("metadata", f"must have at most {METADATA_PAIRS_MAX} pairs")
    for key, value in metadata.items():
        check_identifier("metadata", key, METADATA_KEY_CHARACTERS_MAX)
        field = f"metadata.{key}"
        if isinstance(value, str):
            check_identifier(field, value or "-", METADATA_VALUE_CHARACTERS_MAX)
        elif not isinstance(value, int):  # booleans are
            raise invalid(field, "must be a string, a whole number, true or false")
        elif problem := number_problem(Decimal(value)):
            raise invalid(field, problem)


def check_priority(field: str, priority: int) -> int:
    """Return a priority.

    Raises:
        ProblemError: out of range.
    """
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise invalid(field, f"must be -{PRIORITY_MAX:,} to {PRIORITY_MAX:,}")
    return priority


def read_expiry(text: str | None) -> int | None:
    """Return when a grant ends, microseconds UTC.

    Raises:
        ProblemError: not ISO 8601 with a zone, or centuries ahead.
    """
    if text is None:
        return None
    try:
        moment = parse_iso(text)
    except (ValueError, OverflowError):
        raise invalid("expiresAt", "must be an ISO 8601 time with a zone, such as 2026-12-31T00:00:00Z") from None
    if moment > LATEST_US:
        raise invalid("expiresAt", "must lie before 2200")
    return moment
