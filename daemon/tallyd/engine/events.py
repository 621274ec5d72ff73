"""Reading an event: from what was sent to what is counted, or a problem that names the field."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import CostInput, EventBody, Source, UsageEvent
from tallyd.model.moments import occurrence_problem, parse_iso
from tallyd.model.money import number_problem
from tallyd.model.problems import invalid

IDENTIFIER_CHARACTERS_MAX: Final = 255
METADATA_BYTES_MAX: Final = 262_144
"""Dodo allows 50 pairs of 100 and 500 characters, which may take 6 bytes each in JSON (seed 003)."""

FeatureNamed = Callable[[str], str | None]
"""From an event's name to the feature it stands for when it names none, or None."""

_TOKEN_FIELDS: Final = (
    ("input", "input_tokens", "costInput.inputTokens"),
    ("output", "output_tokens", "costInput.outputTokens"),
    ("cache_read", "cache_read_tokens", "costInput.cacheReadTokens"),
    ("cache_write", "cache_write_tokens", "costInput.cacheWriteTokens"),
    ("reasoning", "reasoning_tokens", "costInput.reasoningTokens"),
)
encode_body: Final = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode
decode_body: Final = msgspec.json.Decoder(EventBody, float_hook=Decimal).decode


def check_identifier(field: str, value: str, longest: int = IDENTIFIER_CHARACTERS_MAX) -> str:
    """Return the value if it can name something.

    Raises:
        ProblemError: empty, too long, or with control characters.
    """
    if value.isprintable() and 0 < len(value) <= longest and not value.isspace():
        return value
    if not value or value.isspace():
        raise invalid(field, "must not be empty")
    if len(value) > longest:
        raise invalid(field, f"must have at most {longest} characters")
    if any(character < " " or character == "\x7f" for character in value):
        raise invalid(field, "must not contain control characters")
    return value


def check_number(field: str, value: Decimal, *, negative: bool = False) -> Decimal:
    """Return the value if it can be kept exactly; see `model.money` for the limits.

    Raises:
        ProblemError: not finite, too many digits, or negative where that makes no sense.
    """
    problem = number_problem(value)
    if problem:
        raise invalid(field, problem)
    if value < 0 and not negative:
        raise invalid(field, "must not be negative")
    return value or abs(value)  # -0 is 0


def customer_ref(body: EventBody) -> CustomerRef:
    """Return whom an event is about: customerId, then stripeCustomerId, then customerReferenceId.

    Raises:
        ProblemError: none of the three, or one that cannot be an id.
    """
    if body.customer_id is not None:
        return id_ref(body.customer_id)
    if body.stripe_customer_id is not None:
        return CustomerRef(RefKind.STRIPE, check_identifier("stripeCustomerId", body.stripe_customer_id))
    if body.customer_reference_id is not None:
        value = check_identifier("customerReferenceId", body.customer_reference_id)
        return CustomerRef(RefKind.REFERENCE, value)
    raise invalid("customerReferenceId", "is required, or stripeCustomerId, or customerId")


def id_ref(value: str) -> CustomerRef:
    """Return a customer named by UUID.

    Raises:
        ProblemError: not a UUID.
    """
    try:
        return CustomerRef(RefKind.ID, str(UUID(value)))
    except ValueError:
        raise invalid("customerId", "must be a UUID") from None


def occurred_at(text: str | None, now: int, field: str = "occurredAt") -> int:
    """Read an event's time; absent means now.

    Raises:
        ProblemError: not ISO 8601 with a zone, before 2000, or more than a day ahead.
    """
    if text is None:
        return now
    try:
        moment = parse_iso(text)
    except (ValueError, OverflowError) as error:
        why = str(error) if "zone" in str(error) else "must be an ISO 8601 time such as 2026-11-21T09:30:00Z"
        raise invalid(field, why) from None
    problem = occurrence_problem(moment, now)
    if problem:
        raise invalid(field, problem)
    return moment


def read_event(
    body: EventBody,
    *,
    source: Source,
    key: str | None,
    new_key: Callable[[], str],
    now: int,
    feature_named: FeatureNamed,
    key_space: str = "",
) -> UsageEvent:
    """Check an event as sent and make it ready to be counted.

    Args:
        body: as sent.
        source: the contract it came in through.
        key: its idempotency key, or None for a new one.
        new_key: makes one.
        now: microseconds UTC.
        feature_named: finds the feature an event's name stands for.
        key_space: see `UsageEvent`.

    Raises:
        ProblemError: names the field.
    """
    check_identifier("eventName", body.event_name)
    if key is not None:
        check_identifier("eventIdempotencyKey", key)
    feature_key = body.feature_key
    if feature_key is None:
        feature_key = feature_named(body.event_name)
    else:
        check_identifier("featureKey", feature_key)
    _label("subscriptionId", body.subscription_id)
    _label("flowId", body.flow_id)
    _label("entitlementId", body.entitlement_id)
    _label("invoiceId", body.invoice_id)
    cost_input = body.cost_input
    return UsageEvent(
        name=body.event_name,
        source=source,
        key_space=key_space,
        key=key if key is not None else new_key(),
        keyed=key is not None,
        occurred_at=occurred_at(body.occurred_at, now),
        feature_key=feature_key,
        units=_optional("usageUnits", body.usage_units),
        cost_amount=_optional("costAmount", body.cost_amount),
        revenue_amount=_optional("revenueAmount", body.revenue_amount),
        tokens=None if cost_input is None else _tokens(cost_input),
        model=None if cost_input is None else _label("costInput.model", cost_input.model),
        provider=None if cost_input is None else _label("costInput.modelProvider", cost_input.model_provider),
        metadata=None if body.meta is None else check_metadata(body.meta),
        subscription_id=body.subscription_id,
        body=canonical(body),
    )


def canonical(body: EventBody) -> str:
    """Return the canonical JSON of a body: its key left out, for the key has a column of its own.

    Raises:
        ProblemError: too large, or text with NUL in it.
    """
    if body.event_idempotency_key is not None:
        body = msgspec.structs.replace(body, event_idempotency_key=None)
    content = encode_body(body)
    if len(content) > METADATA_BYTES_MAX:
        raise invalid("meta", f"makes the event larger than {METADATA_BYTES_MAX} bytes")
    if b"\\u0000" in content and _holds_nul(msgspec.to_builtins(body)):
        raise invalid("meta", "must not contain the NUL character")
    return content.decode()


def check_metadata(metadata: dict[str, Any], field: str = "meta") -> dict[str, Any]:
    """Return the metadata if the numbers that meters may read can be kept exactly.

    Raises:
        ProblemError: names the key.
    """
    for key, value in metadata.items():
        kind = type(value)
        if kind is Decimal or kind is int:
            problem = number_problem(value if kind is Decimal else Decimal(value))
            if problem:
                raise invalid(f"{field}.{key}", problem)
    return metadata


def _optional(field: str, value: Decimal | None) -> Decimal | None:
    return None if value is None else check_number(field, value)


def _label(field: str, value: str | None) -> str | None:
    return None if value is None else check_identifier(field, value)


def _tokens(cost_input: CostInput) -> dict[str, Decimal] | None:
    tokens = {}
    for kind, attribute, field in _TOKEN_FIELDS:
        count = getattr(cost_input, attribute)
        if count is not None:
            tokens[kind] = check_number(field, count)
    if not tokens and cost_input.cost_units is not None:
        tokens = {"input": check_number("costInput.costUnits", cost_input.cost_units)}
    return tokens or None


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)
