"""Values that change with the progress of a run: a number stays, ``"linear_3e-4"`` falls from 3e-4 to zero.

The spelling follows rl-baselines3-zoo (``lin_3e-4`` is accepted too), so that its tuned settings can be copied.
"""

from __future__ import annotations

from typing import TypeAlias

Schedule: TypeAlias = float | str

_PREFIXES = ("linear_", "lin_")


def value_at(schedule: Schedule, progress: float) -> float:
    """The value when ``progress`` in [0, 1] of the run is done."""
    if isinstance(schedule, str):
        return _start(schedule) * (1.0 - min(max(progress, 0.0), 1.0))
    return schedule


def linear(start: float, end: float, fraction: float) -> float:
    """From ``start`` to ``end`` while ``fraction`` goes from 0 to 1, then ``end``."""
    return end + (start - end) * (1.0 - min(max(fraction, 0.0), 1.0))


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ValueError unless ``schedule`` is a positive number or ``"linear_<positive number>"``."""
    try:
        start = _start(schedule) if isinstance(schedule, str) else float(schedule)
    except (TypeError, ValueError):
        start = 0.0
    if not start > 0:
        raise ValueError(f"{name} is {schedule!r}, expected a positive number or 'linear_<number>'")


def _start(schedule: str) -> float:
    for prefix in _PREFIXES:
        if schedule.startswith(prefix):
            try:
                return float(schedule.removeprefix(prefix))
            except ValueError:
                break
    raise ValueError(f"schedule is {schedule!r}, expected a number or 'linear_<number>'")
