"""Checking that modules still hold views of their arena: the C++ class behind `pyrl.engine.arena`."""

from pyrl._core import ArenaViews

__all__ = ["ArenaViews"]
