"""An allocation that fails is a MemoryError that leaves everything as it was, whichever allocation it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import run_python
from thread_cases import CASES

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    library = tmp_path_factory.mktemp("preload") / "fail_allocations.so"
    source = Path(__file__).with_name("fail_allocations.cpp")
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-std=c++17", str(source), "-o", str(library), "-ldl"], check=True, timeout=120)
    return {**os.environ, "LD_PRELOAD": str(library), "FAILING": str(library)}


# Makes each call with its first allocation failing, then its second, .. until none fails.
COMMON = """
import ctypes, os
import numpy as np
from thread_cases import CASES
from gymnasium import spaces
from pyrl import ops
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
library = ctypes.CDLL(os.environ["FAILING"])
[ops.RandomStream(seed) for seed in range(2000)]  # pybind11's registry of instances has grown: it does not survive a failure to grow
def every_failure(call, check=lambda: None, fresh=lambda: None):
    for number in range(1, 400):
        fresh()
        library.fail_allocation(number)
        try:
            call()
            error = None
        except MemoryError as caught:
            error = caught
        failed = library.allocations_failed()
        if not failed:
            assert error is None, error
            return number - 1
        assert error is not None, f"allocation {number} failed and nobody said so"
        check()
    raise AssertionError("always another allocation")
"""

CALLS = (
    COMMON
    + """
for name in sys.argv[1:]:
    made = []
    def fresh():
        made[:] = [CASES[name](3)]
    every_failure(lambda: made[0](), check=lambda: made[0](), fresh=fresh)
    every_failure(lambda: CASES[name](3))
"""
)


@pytest.mark.parametrize("part", range(3))
def test_every_allocation_of_every_call_may_fail(part, preloaded):
    ended = run_python(CALLS, *sorted(CASES)[part::3], limit=120, env=preloaded)
    assert (ended.returncode, ended.stderr) == (0, "")


STATE = (
    COMMON
    + """
observation, action = spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(3)
def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a if isinstance(a[k], np.ndarray)) and str(a) == str(b)
failures = 0
for kind in (ReplayBuffer, PrioritizedReplayBuffer):
    make = lambda: kind(400, observation, action, num_envs=2, n_step=2, seed=0)
    failures += every_failure(make)
    flag = np.zeros(2, bool)
    row = (np.zeros((2, 5)), np.zeros(2, np.int64), np.zeros(2), np.ones((2, 5)), flag, flag)  # float64: to be converted
    box = []
    def fresh():
        box[:] = [make()]
        for _ in range(90):
            box[0].add(*row)
        box.append(box[0].state_dict())
    def unchanged():
        buffer, before = box
        assert same(buffer.state_dict(), before)
        buffer.add(*row)
        buffer.sample(8)
    other = make()
    other.add(*row)
    saved = other.state_dict()
    calls = [lambda: box[0].add(*row), lambda: box[0].sample(100), lambda: box[0].state_dict(), lambda: box[0].load_state_dict(saved),
             lambda: box[0].episodes(), lambda: box[0]._core.shuffled()]
    if kind is ReplayBuffer:
        calls.append(lambda: box[0].sample(100, replacement=False))
    else:
        calls.append(lambda: box[0].update_priorities(np.arange(40), np.ones(40)))
    for call in calls:
        failures += every_failure(call, unchanged, fresh)
print(failures)
"""
)


def test_a_failed_allocation_changes_nothing_in_a_replay_buffer(preloaded):
    ended = run_python(STATE, limit=120, env=preloaded)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 30
