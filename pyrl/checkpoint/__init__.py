"""Checkpoints: a folder of safetensors and JSON, verified when read, replaced in one step when written, never executed.

    <checkpoint>/manifest.json         versions, metadata, the JSON leaves of the tree, every file's length and SHA-256
                 <group>.safetensors   the arrays below one top-level key of the tree ("model", "optimizer", ...)

A save writes a temporary folder beside the checkpoint, flushes it to the disk and renames it into place. A process
killed at any moment leaves the old checkpoint or the new one, never half of one; the next save removes its leftovers.
"""

from pyrl.checkpoint.errors import checkpoint_errors
from pyrl.checkpoint.format import FORMAT_VERSION, library_versions
from pyrl.checkpoint.loading import Tree, exists, load, read_metadata
from pyrl.checkpoint.matching import require_alike, require_finite, require_match
from pyrl.checkpoint.saving import save
from pyrl.checkpoint.spaces_json import space_from_json, space_to_json

__all__ = [
    "FORMAT_VERSION",
    "Tree",
    "checkpoint_errors",
    "exists",
    "library_versions",
    "load",
    "read_metadata",
    "require_alike",
    "require_finite",
    "require_match",
    "save",
    "space_from_json",
    "space_to_json",
]
