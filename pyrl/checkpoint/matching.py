"""Telling how two spaces, or two mappings of settings, differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

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


_ABSENT = "(nothing)"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(tree, default=str)
