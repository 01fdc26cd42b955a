"""Ctrl-C ends a long call soon, and what it worked on stays usable."""

from __future__ import annotations

import json

import pytest
from processes import run_python
from thread_cases import CASES

# A call that takes some tenths of a second, ended at some moment. Reports how long the answer took, and makes the call's small sister.
INTERRUPT = """
import json, os, signal, threading, time
from pyrl import ops
from thread_cases import CASES
name, threads = sys.argv[1], int(sys.argv[2])
ops.set_num_threads(threads)
scale, took = 2000, 0.0
while took < 0.3 and scale < 3_000_000:
    call = CASES[name](scale)
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    scale *= 4 if took < 0.1 else 2
sent = []
def interrupt():
    time.sleep(float(sys.argv[3]))
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
answer = None
try:
    thread.start()
    for _ in range(60):
        call()
except KeyboardInterrupt:
    answer = time.perf_counter() - sent[0]
thread.join()
call()
print(json.dumps({"took": took, "answer": answer}))
"""


@pytest.mark.parametrize(("name", "threads"), [("permutation", 1), ("network", 2), ("uniform_indices", 2)])
def test_ctrl_c_ends_a_long_call(name, threads):
    ended = run_python(INTERRUPT, name, str(threads), "0.11", limit=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["answer"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("moment", ["0.05", "0.2", "0.45"])
def test_ctrl_c_ends_every_call(name, moment):
    ended = run_python(INTERRUPT, name, "2", moment, limit=200)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["answer"] is not None
