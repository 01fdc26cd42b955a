"""Numbers in few characters."""

from __future__ import annotations


def short(count: float) -> str:
    """1,234, 56k, 7.89M: eighty columns are few."""
    if count < 10_000:
        return f"{count:,.0f}"
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.3g}M"
