"""The kernels, with a typed face: NumPy or torch arrays in, the same kind out, zero-copy. The only importer of ``pyrl._core``."""

from pyrl._core import num_threads, set_num_threads
from pyrl.ops.random import RandomStream
from pyrl.ops.returns import discounted_return, gae, lambda_return, n_step_return, vtrace
from pyrl.ops.sampling import (
    RunningMoments,
    permutation,
    sample_categorical,
    sample_gaussian,
    sample_multi_categorical,
    uniform_indices,
)

__all__ = [
    "RandomStream",
    "RunningMoments",
    "discounted_return",
    "gae",
    "lambda_return",
    "n_step_return",
    "num_threads",
    "permutation",
    "sample_categorical",
    "sample_gaussian",
    "sample_multi_categorical",
    "set_num_threads",
    "uniform_indices",
    "vtrace",
]
