"""Columns as the host keeps them, a dict of arrays and of batches of them, and rows to write into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tianshou.data import Batch

from pyrl.errors import ShapeError


def fits(columns: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether every column has its rows in ``given``, and nothing else is there."""
    if columns.keys() != given.keys():
        return False
    for name, column in columns.items():
        value = given[name]
        if isinstance(column, Batch):
            entries = value.__dict__ if isinstance(value, Batch) else value
            if not isinstance(entries, dict) or not fits(column.__dict__, entries):
                return False
        elif isinstance(value, Batch | dict):
            return False
    return True


def check(columns: dict[str, Any], given: dict[str, Any], rows: tuple[int, ...], path: str = "") -> None:
    for name, column in columns.items():
        value = given[name]
        if isinstance(column, Batch):
            check(column.__dict__, value.__dict__ if isinstance(value, Batch) else value, rows, f"{path}{name}.")
            continue
        shape = value.shape if hasattr(value, "shape") else np.shape(value)
        expected = (*rows, *column.shape[1:])
        if shape != expected and getattr(column, "dtype", None) != object:
            raise ShapeError(f"add: {path}{name} has shape {list(shape)}, expected {list(expected)}")


def write(columns: dict[str, Any], given: dict[str, Any], position: Any) -> None:
    for name, column in columns.items():
        value = given[name]
        if isinstance(column, Batch):
            write(column.__dict__, value.__dict__ if isinstance(value, Batch) else value, position)
        else:
            column[position] = value


def leaves(columns: dict[str, Any]) -> Iterator[Any]:
    for column in columns.values():
        if isinstance(column, Batch):
            yield from leaves(column.__dict__)
        else:
            yield column


def nested(columns: dict[str, Any], rows: Iterator[Any]) -> Any:
    batch = Batch()
    found = batch.__dict__
    for name, column in columns.items():
        found[name] = nested(column.__dict__, rows) if isinstance(column, Batch) else next(rows)
    return batch
