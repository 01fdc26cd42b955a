"""The kernels, with a typed face: NumPy or torch arrays in, the same kind out, zero-copy. The only importer of ``pyrl._core``."""

from pyrl.ops.returns import discounted_return, gae, lambda_return, n_step_return, vtrace

__all__ = ["discounted_return", "gae", "lambda_return", "n_step_return", "vtrace"]
