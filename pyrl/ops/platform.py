"""What the kernels found on this machine."""

from __future__ import annotations

from pyrl import _core

_LEVELS = ("portable", "avx2", "avx512")


def simd_level() -> str:
    """The instruction set in use: "portable", "avx2" or "avx512"; ``PYRL_SIMD`` may ask for a lower one than there is."""
    return _LEVELS[_core.simd_level()]
