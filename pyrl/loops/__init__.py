"""Training loops that yield metrics, and evaluation."""

from pyrl.loops.base import Loop
from pyrl.loops.evaluate import Evaluation, evaluate
from pyrl.loops.iterate import iterate
from pyrl.loops.train import Run, train

__all__ = ["Evaluation", "Loop", "Run", "evaluate", "iterate", "train"]
