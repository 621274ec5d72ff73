"""A usage event: what happened, to whom, how much; as sent, before it is counted or priced."""

from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec


class Source(StrEnum):
    """Which contract an event came in through."""

    TANSO = "tanso"
    DODO = "dodo"
    RETEMPO = "retempo"
    SOCKET = "socket"


class CostInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What the provider was asked to do (seed 000 `costInput`).

    Every token belongs to exactly one kind: `inputTokens` leaves out what is in `cacheReadTokens` and
    `cacheWriteTokens`, `outputTokens` leaves out `reasoningTokens`. The last three kinds are tallyd's own.

    Attributes:
        model: the provider's name for the model, such as `gpt-4o` or `gpt-4o-2024-08-06`.
        model_provider: such as `openai`; guessed from the model when absent.
        cost_units: deprecated by Tanso: taken as input tokens when no tokens are sent.
    """

    model: str | None = None
    model_provider: str | None = None
    input_tokens: Decimal | None = None
    output_tokens: Decimal | None = None
    cache_read_tokens: Decimal | None = None
    cache_write_tokens: Decimal | None = None
    reasoning_tokens: Decimal | None = None
    cost_units: Decimal | None = None


class EventBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """An event as sent (seed 000). Dodo's and Retempo's events are translated into it.

    It is kept in the books, canonically encoded, beside what was made of it; equal bodies under one key are a
    retry, others a conflict. `holdId` is there when the event settled a hold, with `/part` after it for a part.
    """

    event_name: str
    event_idempotency_key: str | None = None
    occurred_at: str | None = None
    flow_id: str | None = None
    feature_key: str | None = None
    feature_id: str | None = None
    customer_reference_id: str | None = None
    stripe_customer_id: str | None = None
    customer_id: str | None = None
    subscription_id: str | None = None
    entitlement_id: str | None = None
    invoice_id: str | None = None
    hold_id: str | None = None
    cost_amount: Decimal | None = None
    revenue_amount: Decimal | None = None
    usage_units: Decimal | None = None
    cost_input: CostInput | None = None
    meta: dict[str, Any] | None = None


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One usage event after an interface has read and checked it.

    Attributes:
        name: the event's name, which meters match on.
        source: the contract it came in through.
        key_space: idempotency space: `""` for the account's own, a subscription's id for Retempo.
        key: idempotency key, unique within its space for ever (P2).
        keyed: whether the client sent the key; a key made here needs no look-up.
        occurred_at: microseconds UTC.
        feature_key: the feature it names, when it names one.
        units: `usageUnits` as sent.
        cost_amount: provider cost as sent; wins over every computed cost.
        revenue_amount: what the customer was charged elsewhere, as sent; such an event is not priced again.
        tokens: token counts by kind (`input`, `output`, `cache_read`, `cache_write`, `reasoning`).
        model: the provider's model, when sent.
        provider: the model's provider, when sent.
        metadata: free key-value pairs that meters filter and aggregate on.
        subscription_id: the subscription it asks to be counted on.
        body: canonical JSON of what was sent; equal bodies under one key are a retry, others a conflict.
    """

    name: str
    source: Source
    key_space: str
    key: str
    keyed: bool
    occurred_at: int
    feature_key: str | None
    units: Decimal | None
    cost_amount: Decimal | None
    revenue_amount: Decimal | None
    tokens: dict[str, Decimal] | None
    model: str | None
    provider: str | None
    metadata: dict[str, Any] | None
    subscription_id: str | None
    body: str


_EVENT_UUID: Final = "7a11d000-0000-8000-8000-{:012x}"
_EVENT_UUID_PREFIX: Final = "7a11d000-0000-8000-8000-"


def event_uuid(number: int) -> str:
    """Return the public id of an event: its row number as a UUID (version 8), so that no index is needed."""
    return _EVENT_UUID.format(number)


def event_number(public_id: str) -> int | None:
    """Return the row number behind a public id, or None when it is not one of ours."""
    text = public_id.lower()
    if not text.startswith(_EVENT_UUID_PREFIX) or len(text) != len(_EVENT_UUID_PREFIX) + 12:
        return None
    try:
        return int(text.removeprefix(_EVENT_UUID_PREFIX), 16)
    except ValueError:
        return None
