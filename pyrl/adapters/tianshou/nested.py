"""Columns as the host keeps them, a dict of arrays and of batches of them, and rows to write into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tianshou.data import Batch

from pyrl.errors import DTypeError, ShapeError


def is_batch(value: Any) -> bool:
    """`isinstance` of a Batch, which is a protocol, costs more than storing a row."""
    kind = type(value)
    return kind is Batch or (kind is not np.ndarray and isinstance(value, Batch))


def matched(columns: dict[str, Any], given: dict[str, Any], path: str = "") -> list[tuple[str, Any, Any]] | None:
    """(name, column, what is to be written into it) of each column; None where ``given`` has other names."""
    if columns.keys() != given.keys():
        return None
    found = []
    for name, column in columns.items():
        value = given[name]
        if type(column) is np.ndarray and (type(value) is np.ndarray or isinstance(value, np.generic)):  # as a rule
            found.append((path + name, column, value))
        elif is_batch(column):
            entries = value.__dict__ if is_batch(value) else value
            inner = matched(column.__dict__, entries, f"{path}{name}.") if isinstance(entries, dict) else None
            if inner is None:
                return None
            found += inner
        elif is_batch(value) or isinstance(value, dict):
            return None
        else:
            found.append((path + name, column, value))
    return found


def check_shapes(found: list[tuple[str, Any, Any]], rows: tuple[int, ...]) -> None:
    """ShapeError where a value is not of shape [*rows, ...], DTypeError where a column would lose its fractions."""
    for name, column, value in found:
        shape = value.shape if hasattr(value, "shape") else np.shape(value)
        expected = (*rows, *column.shape[1:])
        if shape == expected and getattr(value, "dtype", None) is column.dtype:  # as a rule
            continue
        kind = getattr(getattr(column, "dtype", None), "kind", "")
        if shape != expected and kind != "O":
            raise ShapeError(f"add: {name} has shape {list(shape)}, expected {list(expected)}")
        if kind in "iub" and kind and getattr(getattr(value, "dtype", None), "kind", "") == "f":
            raise DTypeError(f"add: {name} has dtype {value.dtype}, expected {column.dtype}, that of the first rows")


def leaves(columns: dict[str, Any]) -> Iterator[Any]:
    for column in columns.values():
        if is_batch(column):
            yield from leaves(column.__dict__)
        else:
            yield column


def nested(columns: dict[str, Any], rows: Iterator[Any]) -> Any:
    batch = Batch()
    found = batch.__dict__
    for name, column in columns.items():
        found[name] = nested(column.__dict__, rows) if is_batch(column) else next(rows)
    return batch
