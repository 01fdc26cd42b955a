"""Tianshou's own tests of its buffers (test/base/test_buffer.py of 2.0.1), run on ours: the file itself, with our classes by its names.

They are not in Tianshou's package, so a checkout is needed beside the environment of test_tianshou_adapter.py:

    git clone --depth 1 --branch v2.0.1 https://github.com/thu-ml/tianshou /tmp/tianshou
    PYRL_TIANSHOU_CHECKOUT=/tmp/tianshou PYTHONPATH=$PWD /opt/venv-tianshou/bin/python -m pytest tests/adapters/test_tianshou_host.py
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

_CACHED = "of CachedReplayBuffer, which is the host's own and takes the host's ReplayBuffer"
LEFT_OUT = {
    "test_cachedbuffer": _CACHED,
    "test_multibuf_stack": _CACHED,
    "test_herreplaybuffer": "of HERReplayBuffer, which is the host's own",
    "test_segtree": "wants a value that is exactly a running sum to find the element that ends there, which may have no weight; "
    "ours is the next one that has. The rest of it is test_the_tree_is_the_hosts",
}
CHECKOUT = os.environ.get("PYRL_TIANSHOU_CHECKOUT", "")
FILE = Path(CHECKOUT) / "test" / "base" / "test_buffer.py"
if not CHECKOUT or not FILE.exists():
    pytest.skip("Tianshou has an environment of its own, and its tests are in a checkout: the docstring says how", allow_module_level=True)
pytest.importorskip("tianshou", reason="Tianshou has an environment of its own: the docstring says how")


def host_tests() -> dict[str, Any]:
    from pyrl.adapters import tianshou as ours

    sys.path.insert(0, CHECKOUT)
    for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
        del sys.modules[name]  # Python's own package of this name
    names: dict[str, Any] = {"__name__": "tianshou_test_buffer", "__file__": str(FILE)}
    exec(compile(FILE.read_text(), str(FILE), "exec"), names)
    sys.path.remove(CHECKOUT)
    host, host_cached = names["ReplayBuffer"], names["CachedReplayBuffer"]
    names |= {name: getattr(ours, name) for name in ours.__all__ if name[0].isupper()}
    # Two tests of others use one in passing.
    names["CachedReplayBuffer"] = lambda main, *sizes: host_cached(host(main.maxsize, **main.options), *sizes)
    return names


NAMES = host_tests()
TESTS = sorted(name for name in NAMES if name.startswith("test_"))
dummy_rollout_batch = NAMES["dummy_rollout_batch"]  # a fixture of theirs


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.filterwarnings("ignore")
def test_hosts_own(name: str, request: pytest.FixtureRequest) -> None:
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    test = NAMES[name]
    fixtures = [each.name for each in inspect.signature(test).parameters.values() if each.default is inspect.Parameter.empty]
    test(**{each: request.getfixturevalue(each) for each in fixtures})
