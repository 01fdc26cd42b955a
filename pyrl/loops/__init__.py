"""Training loops that yield metrics, and evaluation."""

from pyrl.loops.base import Loop
from pyrl.loops.evaluation import Evaluation, evaluate
from pyrl.loops.iterate import iterate

__all__ = ["Evaluation", "Loop", "evaluate", "iterate"]
