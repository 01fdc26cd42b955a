"""What the roles of a run with workers are said to do: what the metrics hold, and nothing else."""

from __future__ import annotations

import io

from rich.console import Console

from pyrl.cli.progress import Bar
from pyrl.cli.roles import line, roles
from pyrl.types import Metrics

RUN = {"time/env_steps": 500.0, "time/env_steps_per_second": 12_345.0}
WORKERS = {
    **RUN, "time/queue_depth": 3.0, "time/restarts": 1.0, "time/discarded_steps": 64.0, "time/collected_per_second": 98_765.0,
    "time/updates_per_second": 250.0, "time/bytes_per_second": 12.34e6, "time/learner_waits": 0.043, "train/policy_lag": 1.25,
}  # fmt: skip


def test_every_number_is_shown() -> None:
    assert roles(WORKERS) == {
        "collectors": ["99k steps/s", "1 restarts"],
        "queue": ["3 chunks", "12.3 MB/s", "64 steps discarded"],
        "learner": ["12k steps/s", "250 updates/s", "lag 1.2 updates", "waits 4%"],
    }


def test_nothing_is_said_where_there_are_no_data() -> None:
    assert roles(RUN) == {}
    early = {**RUN, "time/queue_depth": 0.0, "time/restarts": 0.0}
    assert roles(early) == {"collectors": ["0 restarts"], "queue": ["0 chunks"], "learner": ["12k steps/s"]}


def shown(metrics: dict[str, float], terminal: bool) -> str:
    output = io.StringIO()
    with Bar("impala CartPole-v1", Console(file=output, force_terminal=terminal, width=120), 1000, None) as bar:
        bar.show(Metrics(metrics, []))
    return output.getvalue()


def test_a_terminal_has_a_table_and_a_file_a_line() -> None:
    assert line(roles(WORKERS)) in shown(WORKERS, False)
    assert "99k steps/s" in shown(WORKERS, True)
    assert "collectors" not in shown(RUN, True) + shown(RUN, False)
