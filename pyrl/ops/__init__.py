"""The kernels, with a typed face: NumPy or torch arrays in, the same kind out, zero-copy. The only importer of ``pyrl._core``."""
