"""Ctrl-C ends a long call soon, and what it worked on stays usable."""

from __future__ import annotations

import json
import os

import pytest
from processes import run_python
from thread_cases import CASES

# Calls that take a tenth of a second where their case can, ended at some moment. Reports how long the answer took, and makes the call
# once more.
INTERRUPT = """
import json, os, signal, threading, time
from pyrl import ops
from thread_cases import CASES
name, threads = sys.argv[1], int(sys.argv[2])
ops.set_num_threads(threads)
scale, took = 2000, 0.0
while took < 0.1 and scale < 3_000_000:
    call = CASES[name](scale)
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    scale *= 4 if took < 0.03 else 2
sent = []
def interrupt():
    time.sleep(float(sys.argv[3]))
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
answer = None
try:
    thread.start()
    while time.perf_counter() < start + 60:
        call()
except KeyboardInterrupt:
    answer = time.perf_counter() - sent[0]
thread.join()
call()
print(json.dumps({"took": took, "answer": answer}))
"""


# A sampler that is stopped gives its draw back; one that ends first keeps it, and the interrupt comes after it. So it is stopped again,
# each time sooner, until it was under way: the timer's thread may come late on a busy machine.
DRAW = """
import os, signal, threading, time
from pyrl import ops
name, threads = sys.argv[1], int(sys.argv[2])
ops.set_num_threads(threads)
random = ops.RandomStream(0)
calls = {
    "permutation": lambda n: ops.permutation(n, random),
    "uniform_indices": lambda n: ops.uniform_indices(n, 1 << 40, random),
    "distinct_indices": lambda n: ops.uniform_indices(n, n, random, replacement=False),
}
size, took = 1_000_000, 0.0
while took < 0.5:
    size *= 2
    start = time.process_time()  # of all threads, and whatever else runs: the call below takes half of it or more
    calls[name](size)
    took = time.process_time() - start
given_back = False
for moment in (0.11, 0.08, 0.05, 0.03, 0.02):
    before = random.draw
    timer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        calls[name](size)
        timer.join()
        time.sleep(1)  # where the interrupt comes
        raise SystemExit("there was no interrupt")
    except KeyboardInterrupt:
        timer.join()
    if random.draw == before:
        given_back = True
        break
    assert random.draw == before + 1, random.draw
calls[name](1000)
print(given_back, random.draw - before)
"""


@pytest.mark.parametrize(("name", "threads"), [("permutation", 1), ("uniform_indices", 2), ("distinct_indices", 1)])
def test_ctrl_c_stops_a_long_call(name, threads):
    ended = run_python(DRAW, name, str(threads), limit=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True 1\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("moment", ["0.05", "0.2", "0.45"] if os.environ.get("PYRL_EXAMPLES") else ["0.2"])
def test_ctrl_c_ends_every_call(name, moment):
    ended = run_python(INTERRUPT, name, "2", moment, limit=200)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["answer"] is not None
