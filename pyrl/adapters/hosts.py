"""What an adapter says where its host is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyrl.errors import MissingPackageError


@contextmanager
def imported_for(adapter: str, extra: str | None = None) -> Iterator[None]:
    """Around the imports of a host's modules: MissingPackageError names the package that is not there, and the extra that brings it.

    ``extra`` is the adapter's name by default.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in ("pyrl", ""):
            raise
        raise MissingPackageError(
            f"pyrl.adapters.{adapter} needs {package}, which is not installed: pip install 'pyrl[{extra or adapter}]'", name=missing.name
        ) from None
