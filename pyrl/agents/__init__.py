"""Agents: one algorithm, one file, its maths visible in it. `pyrl.agents.base.make_agent` finds them by file name."""
