"""Columns as the host keeps them, a dict of arrays and of batches of them, and rows to write into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tianshou.data import Batch

from pyrl.errors import ShapeError


def is_batch(value: Any) -> bool:
    """`isinstance` of a Batch, which is a protocol, costs more than storing a row."""
    kind = type(value)
    return kind is Batch or (kind is not np.ndarray and isinstance(value, Batch))


def matched(columns: dict[str, Any], given: dict[str, Any], rows: tuple[int, ...], path: str = "") -> list[tuple[Any, Any]] | None:
    """Each column with what is to be written into it, of shape [*rows, ...]; None where names differ, ShapeError where shapes do."""
    if columns.keys() != given.keys():
        return None
    pairs = []
    for name, column in columns.items():
        value = given[name]
        if is_batch(column):
            entries = value.__dict__ if is_batch(value) else value
            inner = matched(column.__dict__, entries, rows, f"{path}{name}.") if isinstance(entries, dict) else None
            if inner is None:
                return None
            pairs += inner
            continue
        if is_batch(value) or isinstance(value, dict):
            return None
        shape = value.shape if hasattr(value, "shape") else np.shape(value)
        expected = (*rows, *column.shape[1:])
        if shape != expected and getattr(getattr(column, "dtype", None), "kind", "") != "O":
            raise ShapeError(f"add: {path}{name} has shape {list(shape)}, expected {list(expected)}")
        pairs.append((column, value))
    return pairs


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
