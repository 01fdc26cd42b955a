"""Whose Ray the engine ``ray`` uses: the program's, a cluster's, or one of our own, for this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading

import ray

from pyrl.errors import SettingError

PROBE_SECONDS = 3.0  # for an address to answer


def connect(address: str | None, workers: int) -> bool:
    """Whether this started or joined a Ray, which is then ours to leave; False where the program has initialised one, which is used."""
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise SettingError(f"train: address is {address!r}, but the program is connected to the Ray at {here}; leave it out")
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    if address == "local":  # as Ray says it; its own would listen beyond this machine
        address = None
    if address is not None:
        _probe(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            _start(max(workers, os.cpu_count() or 1))
        else:
            ray.init(address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise SettingError(f"train: address is {address!r}, but no Ray answers there ({error})") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own would not save the run
                signal.signal(number, handler)
    return True


def _probe(address: str) -> None:
    """SettingError unless somebody listens at ``address``: Ray itself asks a dead one for minutes, in C++ that no signal ends."""
    try:
        if address.startswith("ray://"):  # of a Ray client
            host, _, port = address.removeprefix("ray://").rpartition(":")
        else:
            services = ray._private.services
            host, port = services.parse_address(services.canonicalize_bootstrap_address(address))
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError, TypeError) as error:  # ConnectionError is an OSError: "auto" finds none
        raise SettingError(f"train: address is {address!r}, but no Ray answers there ({error})") from error


def _start(cpus: int) -> None:
    """A Ray of our own, with tokens, as it has them by default, and which only this machine can reach. The variable, which its processes
    inherit, is named after the systems where that is the default."""
    name, constants = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray._private.ray_constants
    before, enabled = os.environ.get(name), constants.ENABLE_RAY_CLUSTER
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    finally:
        constants.ENABLE_RAY_CLUSTER = enabled
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
    if not (here := ray.util.get_node_ip_address()).startswith("127."):
        ray.shutdown()
        raise RuntimeError(f"ray {ray.__version__} listens on {here}, not on this machine alone; start one yourself and name its address")
