"""What is made at the first call: threads that are first at once do not wait for each other for ever."""

from __future__ import annotations

from processes import run_python

# Forks, as each process has one first call; numbers are made before, as making them would be it.
FIRST = """
import os, signal, threading
from pyrl import ops
from thread_cases import CASES
calls = [CASES[name](20) for name in ("dueling", "gae_wide", "network")]
for k in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        go = threading.Event()
        def run():
            go.wait()
            calls[k % 3]()
        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join()
        os._exit(0)
    if (status := os.waitpid(child, 0)[1]) != 0:
        print("a child ended with", status)
        break
"""


def test_threads_that_call_first_at_once() -> None:
    done = run_python(FIRST)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
