"""One torch thread: the networks of the tests are tiny, and two threads on a busy machine wait for each other.

Property tests try the same examples in every run, so that a change is blamed for what it broke; PYRL_FRESH_SEEDS=1 tries new ones. They
may take their time: what is slow is the machine.
"""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=not os.environ.get("PYRL_FRESH_SEEDS"), deadline=None)
settings.load_profile("repeatable")
