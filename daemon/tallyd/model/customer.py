"""Who is metered and billed."""

import uuid
from enum import StrEnum

import msgspec

_NAMESPACE = uuid.UUID("6f1f6c0e-5a0b-5d5c-9f58-7a1d0f3a9d10")


class RefKind(StrEnum):
    """Which of a customer's names a request used (seed 000)."""

    REFERENCE = "reference"  # customerReferenceId; Dodo's customer_id; Retempo's userId
    STRIPE = "stripe"  # stripeCustomerId
    ID = "id"  # tallyd's own UUID


class CustomerRef(msgspec.Struct, frozen=True, gc=False):
    """A customer as a request names it. Equal references always lead to the same customer."""

    kind: RefKind
    value: str

    def customer_id(self) -> str:
        """Return the customer's UUID: derived from the name, so that two racing first events agree on it."""
        if self.kind is RefKind.ID:
            return self.value
        return str(uuid.uuid5(_NAMESPACE, f"{self.kind}:{self.value}"))


class Customer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A customer as the books know it.

    Attributes:
        number: the row number that ledger rows refer to.
        id: UUID, in Tanso's API `customerId`.
        reference: the app's own id, when it was named by it.
        stripe_id: the Stripe id, when it was named by it.
        created_at: microseconds UTC.
        profile: JSON of what the app told about the customer (names, e-mail), or None.
    """

    number: int
    id: str
    reference: str | None
    stripe_id: str | None
    created_at: int
    profile: str | None = None

    @property
    def label(self) -> str:
        """The name a person knows the customer by."""
        return self.reference or self.stripe_id or self.id
