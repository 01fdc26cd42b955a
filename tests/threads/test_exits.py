"""A program ends cleanly while daemon threads are inside kernels."""

from __future__ import annotations

import pytest
from processes import run_python
from thread_cases import CASES

EXIT = """
import threading, time
from thread_cases import CASES
started = threading.Barrier(1 + 2 * len(sys.argv[2:]))
def run(call):
    call()
    started.wait()
    while True:
        call()
for name in sys.argv[2:]:
    for scale in (1, 3000):
        threading.Thread(target=run, args=(CASES[name](scale),), daemon=True).start()
started.wait()
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["0.001", "0.013"])
@pytest.mark.parametrize("part", range(4))
def test_daemon_threads_in_kernels_do_not_disturb_the_exit(part, moment):
    ended = run_python(EXIT, moment, *sorted(CASES)[part::4], limit=60)
    assert (ended.returncode, ended.stderr) == (0, "")
