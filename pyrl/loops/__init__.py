"""Training loops that yield metrics, and evaluation."""

from pyrl.loops.base import Loop
from pyrl.loops.evaluation import Evaluation, evaluate
from pyrl.loops.iteration import iterate
from pyrl.loops.training import Run, train

__all__ = ["Evaluation", "Loop", "Run", "evaluate", "iterate", "train"]
