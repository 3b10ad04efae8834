"""Figures as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping


def bounds(value: Mapping[str, float], form: str = ".3f") -> str:
    """The interval alone; a mean of one value has none."""
    if "mean" in value and value.get("n") == 1:
        return "[–]"
    return f"[{value['low']:{form}}, {value['high']:{form}}]"


def interval(value: Mapping[str, float] | None, key: str = "mean", form: str = ".3f") -> str:
    """A figure with its interval, or a dash."""
    return "–" if value is None else f"{value[key]:{form}} {bounds(value, form)}"


def signed(value: Mapping[str, float], form: str) -> str:
    """A difference with its interval."""
    return interval(value, form=f"+{form}")
