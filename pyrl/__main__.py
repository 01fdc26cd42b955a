"""``python -m pyrl``: the same as ``pyrl``."""

from pyrl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
