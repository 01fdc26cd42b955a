"""What writing and reading share: names, limits, versions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_HEADER = 8 << 20  # bytes of a manifest or of a safetensors header
CHUNK = 16 << 20  # bytes read or written at once
GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")
SEAL = '{"sha256": "%s",'  # how a manifest begins: the digest of everything after these bytes
_LIBRARIES = ("pyrl", "numpy", "torch", "gymnasium", "safetensors")


def aside_of(path: Path) -> Path:
    """Where the old checkpoint stands while the new one moves in; `load` looks there too."""
    return path.with_name(f".old-{path.name}")


def array_name(keys: Sequence[str]) -> str:
    """The name in a safetensors file of the array under these keys; none for an array that is a group by itself."""
    return "/".join(key.replace("~", "~0").replace("/", "~1") or "~2" for key in keys)


def array_keys(name: str) -> list[str]:
    """What `array_name` was given."""
    return ["" if k == "~2" else k.replace("~1", "/").replace("~0", "~") for k in name.split("/")] if name else []


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def library_versions() -> dict[str, str]:
    """The installed versions of Python and of the libraries that matter to a run."""
    return dict(_versions())
