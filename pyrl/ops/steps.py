"""What a stepper keeps of its environments: returns, clocks and time limits, in one object; and calling their step functions."""

from pyrl._core import StepBook, StepCalls

__all__ = ["StepBook", "StepCalls"]
