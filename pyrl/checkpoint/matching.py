"""Telling how two spaces, two mappings of settings, or the contents of two checkpoints differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pyrl.checkpoint.spaces_json import space_to_json
from pyrl.errors import CheckpointError, SpaceError


def require_match(saved: Any, wanted: Any, what: str) -> None:
    """Raise an error that lists every difference between two spaces (or their JSON), or two mappings of settings.

    SpaceError for spaces, CheckpointError otherwise; ``what`` names the thing compared.
    """
    from gymnasium import Space

    spaces = isinstance(saved, Space) or isinstance(wanted, Space)
    saved, wanted = (space_to_json(s) if isinstance(s, Space) else s for s in (saved, wanted))
    ours, theirs = dict(_leaves(wanted)), dict(_leaves(saved))
    differing = [k for k in {**theirs, **ours} if ours.get(k, _ABSENT) != theirs.get(k, _ABSENT)]
    if differing:
        lines = [f"  {k or 'value'}: saved {theirs.get(k, _ABSENT)}, wanted {ours.get(k, _ABSENT)}" for k in differing]
        raise (SpaceError if spaces else CheckpointError)("\n".join([f"{what} differs:", *lines]))


def require_alike(saved: Any, wanted: Any, what: str) -> None:
    """CheckpointError unless ``saved`` could take the place of ``wanted``, a tree that `save` takes: the same keys, arrays of the
    same library, dtype and shape, numbers and strings of the same type."""
    if isinstance(wanted, Mapping):
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"{what} is {_kind(saved)}, expected the entries {_names(wanted)}")
        for name in wanted:
            if name not in saved:
                raise CheckpointError(f"{what} has no entry {name!r}")
            require_alike(saved[name], wanted[name], f"{what}/{name}")
        if further := saved.keys() - wanted.keys():
            raise CheckpointError(f"{what} has the entries {_names(further)} too, which nothing here is called")
    elif _kind(saved) != _kind(wanted):
        raise CheckpointError(f"{what} is {_kind(saved)}, expected {_kind(wanted)}")


def require_finite(tree: Any, what: str) -> None:
    """CheckpointError names the first array or number of ``tree`` that is NaN or infinite."""
    if isinstance(tree, Mapping):
        for name, entry in tree.items():
            require_finite(entry, f"{what}/{name}")
    elif hasattr(tree, "shape"):
        finite = np.isfinite(tree) if isinstance(tree, np.ndarray) else tree.isfinite()
        if not finite.all():
            raise CheckpointError(f"{what} holds {int((~finite).sum())} numbers that are NaN or infinite")
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise CheckpointError(f"{what} is {tree}, expected a finite number")


def _kind(value: Any) -> str:
    """What two leaves must have in common."""
    if hasattr(value, "shape"):
        return f"{'a NumPy array' if isinstance(value, np.ndarray) else 'a tensor'} {value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _names(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(map(repr, found[:8])) + (" ..." if len(found) > 8 else "")


_ABSENT = "(nothing)"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(tree, default=str)
