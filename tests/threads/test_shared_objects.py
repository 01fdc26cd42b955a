"""Threads that share an object, or change the arrays of a call under way, break nothing."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from processes import run_python
from thread_cases import CASES

from pyrl import ops
from pyrl.errors import ShapeError
from pyrl.ops import RandomStream, permutation


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("scale", [1, 300])
def test_threads_may_share_what_a_call_uses(name, scale):
    call, failures = CASES[name](scale), []

    def run():
        try:
            for _ in range(10):
                call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    # Networks keep the latest forward of all threads: a shape of another thread's is refused by name. Here all are the same.
    assert failures == []


def test_a_network_in_two_threads_is_whole_or_refuses():
    net = ops.Network([ops.Layer(8, 64, 0, 512, activation="tanh"), ops.Layer(64, 4, 576, 832)])
    parameters, failures = np.ones(1024, np.float32), []

    def run(batch):
        x = np.ones((batch, 8), np.float32)
        try:
            for _ in range(60):
                y = net.forward(parameters, x)
                with contextlib.suppress(ShapeError):  # of the other thread's batch
                    net.backward(parameters, np.empty_like(parameters), y)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(batch,)) for batch in (3, 4000, 700)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_moments_and_optimiser_steps_of_two_threads_all_count():
    moments, batch = ops.RunningMoments((4,)), np.random.default_rng(0).standard_normal((20_000, 4))
    parameters, gradients = np.zeros(50_000, np.float32), np.ones(50_000, np.float32)
    averages, step = (np.zeros(50_000, np.float32), np.zeros(50_000, np.float32)), np.zeros((), np.float32)

    def run():
        for _ in range(40):
            moments.update(batch)
            ops.adam(parameters, gradients, *averages, step, lr=1.0)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert moments.count == 120 * len(batch)
    np.testing.assert_allclose(moments.mean, batch.mean(0), atol=1e-9)
    assert step == 120
    np.testing.assert_allclose(parameters, -120, rtol=1e-3)


# The main thread makes a long call; another resizes, replaces or overwrites each of its arrays meanwhile.
CHANGE = """
import threading, time, numpy as np
from pyrl import ops
from pyrl.errors import ShapeError
from pyrl.ops import RandomStream
T = 400_000
kind, change = sys.argv[1:]
value, flag, index, column = np.ones((T, 4), np.float32), np.zeros((T, 4), bool), np.zeros(T, np.int64), np.ones(T, np.float32)
if kind == "torch":
    import torch
    value, flag, index, column = (torch.from_numpy(array).clone() for array in (value, flag, index, column))
calls = {
    "gae": lambda: ops.gae(value, value, value, flag, flag, gamma=0.99, gae_lambda=0.95),
    "take_rows": lambda: ops.take_rows((value, flag), index),
    "q_loss": lambda: ops.q_loss(value, index, column, column, value),
    "categorical": lambda: ops.sample_categorical(value, RandomStream(0)),
}
def disturb(array):
    if change == "size" and kind == "numpy":
        array.resize((1,), refcheck=False)  # refused during a call; between two calls it empties the array
        array.resize((T, 4) if array is not index else (T,), refcheck=False)
    elif change == "size":
        keep = array.clone()
        array.set_()
        array.set_(keep)
    elif change == "data":
        array.data = array.clone()
    elif array is index:
        array[:] = 1 << 40 if array[0] == 0 else 0
    elif array is value:
        array[:] = -np.inf if array[0, 0] == 1 else 1
def run():
    while not done.is_set():
        for array in (value, flag, index):
            try:
                disturb(array)
            except ValueError:
                refused.append(1)
        time.sleep(0.0002)
done, refused = threading.Event(), []
thread = threading.Thread(target=run, daemon=True)
thread.start()
for name in calls:
    for _ in range(15):
        try:
            calls[name]()
        except (ValueError, TypeError, IndexError):
            pass
done.set()
thread.join()
"""


@pytest.mark.parametrize(
    ("kind", "change"), [("numpy", "size"), ("numpy", "values"), ("torch", "size"), ("torch", "data"), ("torch", "values")]
)
def test_arrays_may_change_while_a_kernel_reads_them(kind, change):
    ended = run_python(CHANGE, kind, change, limit=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_numpy_array_refuses_to_be_resized_while_a_kernel_reads_it_and_can_be_afterwards():
    out, refused, started = np.empty(3_000_000, np.int64), [], threading.Event()

    def resize():
        started.wait()
        for _ in range(200):
            try:
                out.resize((1,), refcheck=False)
            except ValueError:
                refused.append(1)
            else:
                out.resize((3_000_000,), refcheck=False)

    thread = threading.Thread(target=resize)
    thread.start()
    started.set()
    done = False
    while not done:
        try:
            permutation(3_000_000, RandomStream(0), out=out)
            done = True
        except ValueError:  # came between two changes of its size
            continue
    thread.join(60)
    assert refused
    out.resize((7,), refcheck=False)
    assert len(out) == 7
