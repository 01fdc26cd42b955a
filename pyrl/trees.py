"""Trees of arrays: an array, or a (nested) mapping, tuple or `Record` of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyrl.types import Record


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``function`` of each leaf (and of the leaves at the same places of ``others``), in trees of the same form.

    Everything that is not a mapping, a tuple or a record is a leaf, None too.
    """
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
