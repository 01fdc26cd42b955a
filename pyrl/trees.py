"""Trees of arrays, an array or a (nested) mapping, tuple or `Record` of them; and the spaces that describe such trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_describe(v) for v in value) + ")"
    return repr(value)


class Record:
    """Prints shapes and dtypes instead of data."""

    def __repr__(self) -> str:
        body = ", ".join(f"{f.name}={_describe(getattr(self, f.name))}" for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({body})"


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``function`` of each leaf (and of the leaves at the same places of ``others``), in trees of the same form.

    Everything that is not a mapping, a tuple or a record is a leaf, None too.
    """
    if type(tree) is np.ndarray:  # first, as asking an abstract class takes longest
        return function(tree, *others)
    if isinstance(tree, Mapping):
        return {key: map_tree(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tree(function, value, *(other[i] for other in others)) for i, value in enumerate(tree))
    if isinstance(tree, Record):
        names = [field.name for field in dataclasses.fields(tree)]  # type: ignore[arg-type]
        mapped = (map_tree(function, getattr(tree, name), *(getattr(other, name) for other in others)) for name in names)
        return type(tree)(**dict(zip(names, mapped)))
    return function(tree, *others)


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree, in the order in which `map_tree` visits them."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, tuple):
        for value in tree:
            yield from leaves(value)
    elif isinstance(tree, Record):
        for field in dataclasses.fields(tree):  # type: ignore[arg-type]
            yield from leaves(getattr(tree, field.name))
    else:
        yield tree


def first_leaf(tree: Any) -> Any:
    """The first array of an observation; all share their leading dimensions."""
    if type(tree) is np.ndarray:  # first, as in `map_tree`
        return tree
    while isinstance(tree, (Mapping, tuple)):
        tree = next(iter(tree.values())) if isinstance(tree, Mapping) else tree[0]
    return tree


def map_space(function: Callable[[Any], Any], space: Any) -> Any:
    """``function`` of the space of each single array, in a tree of the form of the observations of ``space``."""
    entries = getattr(space, "spaces", None)
    if entries is None:
        return function(space)
    if isinstance(entries, Mapping):
        return {key: map_space(function, entry) for key, entry in entries.items()}
    return tuple(map_space(function, entry) for entry in entries)


def zeros_for(space: Any, *leading: int) -> Any:
    """Zero arrays with leading dimensions: dtype and shape as the space says."""
    return map_space(lambda leaf: np.zeros((*leading, *(leaf.shape or ())), dtype=leaf.dtype), space)
