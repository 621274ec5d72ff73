"""The plugin seam: what a pricing plugin is given, what it may return, and what tallyd does with it.

Everything a plugin author needs is imported from here.
"""

from tallyd.pricing.hookspecs import hookimpl
from tallyd.pricing.prices import DatedPrices, ProviderPrices, TokenPrices
from tallyd.pricing.seam import (
    UNITS,
    CappedTerms,
    Dimension,
    Measure,
    PricingModel,
    Step,
    Terms,
    TermsError,
    Unpriced,
    Usage,
    check_not_negative,
    split_dimension,
    token_dimension,
)

__all__ = [
    "UNITS",
    "CappedTerms",
    "DatedPrices",
    "Dimension",
    "Measure",
    "PricingModel",
    "ProviderPrices",
    "Step",
    "Terms",
    "TermsError",
    "TokenPrices",
    "Unpriced",
    "Usage",
    "check_not_negative",
    "hookimpl",
    "split_dimension",
    "token_dimension",
]
