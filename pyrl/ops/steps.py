"""What a stepper keeps of its environments: returns, clocks and time limits, in one object."""

from pyrl._core import StepBook

__all__ = ["StepBook"]
