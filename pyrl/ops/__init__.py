"""The kernels, with a typed face: NumPy or torch arrays in, the same kind out, zero-copy. The only importer of ``pyrl._core``."""

try:
    from pyrl._core import cuda_built, num_threads, set_num_threads
except ModuleNotFoundError as error:
    raise ImportError(
        f"pyrl is imported from the source folder {__file__.removesuffix('/pyrl/ops/__init__.py')}, where the extension is not built: "
        "start Python in another folder, or build it here with `cmake --preset dev && cmake --build build/dev`"
    ) from error
from pyrl.ops.limiter import RateLimiter
from pyrl.ops.losses import (
    dueling,
    dueling_backward,
    policy_loss,
    q_loss,
    squashed_gaussian,
    squashed_gaussian_backward,
    value_loss,
)
from pyrl.ops.networks import Layer, Network, bfloat16_products
from pyrl.ops.optimizers import adam, copy_nontemporal, polyak, rmsprop
from pyrl.ops.platform import simd_level
from pyrl.ops.random import RandomStream
from pyrl.ops.returns import discounted_return, gae, lambda_return, n_step_return, vtrace
from pyrl.ops.sampling import (
    RunningMoments,
    permutation,
    sample_categorical,
    sample_gaussian,
    sample_multi_categorical,
    take_rows,
    uniform_indices,
)
from pyrl.ops.sum_tree import SumTree

__all__ = [
    "Layer",
    "Network",
    "RandomStream",
    "RateLimiter",
    "RunningMoments",
    "SumTree",
    "adam",
    "bfloat16_products",
    "copy_nontemporal",
    "cuda_built",
    "discounted_return",
    "dueling",
    "dueling_backward",
    "gae",
    "lambda_return",
    "n_step_return",
    "num_threads",
    "permutation",
    "policy_loss",
    "polyak",
    "q_loss",
    "rmsprop",
    "sample_categorical",
    "sample_gaussian",
    "sample_multi_categorical",
    "set_num_threads",
    "simd_level",
    "squashed_gaussian",
    "squashed_gaussian_backward",
    "take_rows",
    "uniform_indices",
    "value_loss",
    "vtrace",
]
