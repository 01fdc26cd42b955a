"""What torchrun says to the processes that it starts. Imports nothing else, so that a command can ask before it imports torch."""

from __future__ import annotations

import os


def torchrun_ranks() -> int:
    """How many processes torchrun started; 0: it did not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def torchrun_rank() -> int:
    """Which of them this is; 0 without torchrun too."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0
