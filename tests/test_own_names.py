"""Agents and backends of other packages do not take the names of pyrl's own."""

from __future__ import annotations

import pytest

from pyrl.agents.registry import agent_class, register, registered
from pyrl.envs import BACKENDS, backend
from pyrl.errors import SettingError


@pytest.mark.parametrize("name", ["ppo", "crossq", "random"])
def test_an_agents_name(name: str) -> None:
    before = agent_class(name)

    class Stranger(before):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(SettingError, match=f"register: '{name}' is an agent of pyrl's own, expected another name for .*Stranger"):
        register(name)(Stranger)
    assert agent_class(name) is before
    register("stranger")(Stranger)
    assert agent_class("stranger") is Stranger
    del registered["stranger"]


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_backends_name(name: str) -> None:
    before = BACKENDS[name]

    def stranger(request: object) -> object:
        return request

    with pytest.raises(ValueError, match=f"backend: '{name}' is a backend of pyrl's own, expected another name for .*stranger"):
        backend(name)(stranger)  # type: ignore[arg-type]
    assert BACKENDS[name] is before
