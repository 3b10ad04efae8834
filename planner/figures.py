"""Figures as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping


def interval(value: Mapping[str, float] | None, key: str = "mean", form: str = ".3f") -> str:
    """A figure with its interval, or a dash."""
    if value is None:
        return "–"
    return f"{value[key]:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def signed(value: Mapping[str, float], form: str) -> str:
    """A difference with its interval."""
    return f"{value['mean']:+{form}} [{value['low']:+{form}}, {value['high']:+{form}}]"
