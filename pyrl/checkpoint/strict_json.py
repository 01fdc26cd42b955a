"""JSON from strangers: what Python reads beyond the standard is refused, and so is what costs far more than its bytes.

Whoever writes what `parse` refuses could not read it back, so that `save` parses what it is about to write.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_VALUES = 1 << 19  # commas and brackets: an empty object of two bytes takes 64 in memory
MAX_DEPTH = 64
MAX_STRING = 1 << 16  # characters of one string or key
MAX_DIGITS = 64  # of one integer


def parse(data: bytes) -> dict[str, Any]:
    """The object that ``data`` spells; ValueError says what is wrong with it, or too large about it."""
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_VALUES:
        raise ValueError(f"it holds {values} values, expected at most {MAX_VALUES}")
    try:
        hooks: dict[str, Any] = {"parse_constant": _constant, "parse_float": _float, "parse_int": _integer}
        value = json.loads(data.decode(), object_pairs_hook=_unique, **hooks)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    _check_strings_and_depth(value)
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:32]} is beyond the largest float")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS and len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(text.lstrip('-'))} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _check_strings_and_depth(value: dict[str, Any]) -> None:
    """Container by container: a list of half a million numbers costs little more than to look at each once."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below = []
        for item in level:
            entries = [*item, *item.values()] if isinstance(item, dict) else item
            longest = max(map(len, [entry for entry in entries if isinstance(entry, str)]), default=0)
            if longest > MAX_STRING:
                raise ValueError(f"a string has {longest} characters, expected at most {MAX_STRING}")
            below += [entry for entry in entries if isinstance(entry, dict | list)]
        level = below
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
