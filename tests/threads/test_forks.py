"""A child of os.fork works, whatever the other threads of its parent were doing, and has random numbers of its own."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from processes import run_python
from thread_cases import CASES

from pyrl.buffers import ReplayBuffer
from pyrl.ops import RandomStream, permutation

# Threads run one call, the same object in all, while the main thread forks at several moments; the child makes the same call.
FORK = """
import os, signal, threading, time
from pyrl import ops
from thread_cases import CASES
ops.set_num_threads(2)
for name in sys.argv[1:]:
    call, done = CASES[name](2000), threading.Event()
    def run():
        while not done.is_set():
            call()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for moment in (0.0005, 0.0021, 0.005):
        time.sleep(moment)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                call()
            except BaseException as error:
                print(name, repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            print(name, "the child ended with", status, flush=True)
    done.set()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("part", range(4))
def test_a_child_works_whatever_other_threads_were_doing(part):
    ended = run_python(FORK, *sorted(CASES)[part::4], limit=120)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr


def numbers_of_child(draw) -> list:
    """What ``draw()`` returns in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(draw()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        found = json.loads(file.read())
    os.waitpid(child, 0)
    return found


def of_stream():
    random = RandomStream(7)
    return random, lambda: permutation(50, random).tolist()


def of_tensor_stream():
    random = RandomStream(7, device="cpu")
    return random, lambda: permutation(50, random).tolist()


def of_buffer():
    from gymnasium import spaces

    buffer = ReplayBuffer(64, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), seed=7)
    for _ in range(60):
        buffer.add(np.zeros(1), 0, 0.0, np.zeros(1), False, False)
    return buffer, lambda: buffer.sample(20).index.tolist()


@pytest.mark.parametrize("make", [of_stream, of_tensor_stream, of_buffer])
@pytest.mark.parametrize("draws_before", [0, 1, 5])
def test_a_child_and_its_parent_and_its_siblings_draw_different_numbers(make, draws_before):
    owner, draw = make()
    for _ in range(draws_before):
        draw()
    children = [numbers_of_child(draw) for _ in range(3)]
    grandchild = numbers_of_child(lambda: numbers_of_child(draw))
    drawn = [draw(), *children, grandchild]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)
    assert drawn[0] == _in_one_process(make, draws_before)
    del owner


def _in_one_process(make, draws_before):
    _owner, draw = make()
    return [draw() for _ in range(draws_before + 1)][-1]


def test_what_is_made_or_set_in_the_child_is_as_its_seed_says():
    random = RandomStream(7)
    state = random.state

    def draw():
        random.state = state
        return permutation(50, random).tolist(), permutation(50, RandomStream(9)).tolist()

    assert numbers_of_child(draw) == [permutation(50, RandomStream(7)).tolist(), permutation(50, RandomStream(9)).tolist()]


def test_the_same_children_of_the_same_program_draw_the_same_numbers():
    code = """
import os
from pyrl.ops import RandomStream, permutation
random = RandomStream(3)
for _ in range(2):
    child = os.fork()
    if child == 0:
        print(permutation(20, random).tolist(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    first, second = run_python(code), run_python(code)
    assert first.stdout == second.stdout
    assert len(set(first.stdout.splitlines())) == 2
