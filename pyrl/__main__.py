"""``pyrl``, and ``python -m pyrl``: the command line, which takes a moment to import."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`pyrl.cli`), its imports included, so that Ctrl-C ends them quietly too; the exit code."""
    try:
        from pyrl.cli import run

        return run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("pyrl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
