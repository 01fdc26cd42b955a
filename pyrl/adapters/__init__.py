"""Buffers and returns in the clothes of other libraries, one file a host, imported on demand.

Each file subclasses or imitates what its host calls and hands the work to `pyrl.buffers` and `pyrl.ops`; importing it needs the host
(`hosts` says so where it is not there), importing `pyrl.adapters` does not.
"""
