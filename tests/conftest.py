"""One torch thread: the networks of the tests are tiny, and two threads on a busy machine wait for each other.

Property tests try the same examples in every run, so that a change is blamed for what it broke; PYRL_FRESH_SEEDS=1 tries new ones. They
may take their time: what is slow is the machine.

The last lines of a run say how many tests run only on other hardware, and why each other one was skipped. With `--complete` such another
one fails the run: CI has every extra, so that a package that is missing there is an error and not a silence.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# A shell in the background hands down ignored signals; the tests send them to programs that should answer.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
settings.register_profile(
    "repeatable", derandomize=not os.environ.get("PYRL_FRESH_SEEDS"), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

# In the reasons of what other machines and builds run, or packages that cannot live beside the rest.
HARDWARE = re.compile(r"\b(CUDA|GPU|GPUs|AMX|on the CPU|has an environment of its own)\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--complete", action="store_true", help="fail if a test is skipped for anything but the hardware")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow begins first: no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def reasons(config: pytest.Config, hardware: bool) -> Counter[str]:
    """How many tests were skipped for each."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    found = (report.longrepr[2].removeprefix("Skipped: ") for report in skipped)  # (file, line, reason)
    return Counter(reason for reason in found if bool(HARDWARE.search(reason)) == hardware)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--complete") and reasons(session.config, hardware=False) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for hardware, title in ((True, "run only on other hardware or builds"), (False, "skipped for other reasons")):
        found = reasons(config, hardware)
        if found:
            terminalreporter.section(f"{found.total()} tests {title}")
            for reason, count in found.most_common():
                terminalreporter.write_line(f"{count:6} {reason}")
    if config.getoption("--complete") and reasons(config, hardware=False):
        terminalreporter.write_line("--complete: these are errors; install '.[test,all]', or name the hardware in the reason", red=True)
