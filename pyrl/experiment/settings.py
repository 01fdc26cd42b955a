"""The settings of a run: of a new one, and which of them may change when it resumes. All of it is JSON, as in config.json."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyrl.agents.base import Agent
from pyrl.agents.checks import Unsaid
from pyrl.agents.registry import make_config
from pyrl.envs.make import ENV_TIMEOUT
from pyrl.errors import SettingError
from pyrl.experiment.presets import preset, preset_name
from pyrl.experiment.runs import RunFolder
from pyrl.own import BROUGHT, handed_in, is_own, name_of
from pyrl.seeding import fresh_seed

CHANGEABLE = (
    "total_steps", "total_episodes", "stop_at_return", "stop_window", "eval_every", "eval_episodes", "save_every_episodes",
    "env_timeout", "address",
)  # fmt: skip
CHANGEABLE_CONFIG = ("learning_rate",)
_PER_CALL = ("resume", "on_metrics", "curve", "threads", "config")  # not of the run, or handled on their own
_SAID_BY_NONE = ("env_timeout",)
_LARGEST = 1_000_000  # elements of an array in config.json


def said(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were given, as JSON has them: neither None, where that says nothing, nor a default."""
    given = {n: value for n, value in arguments.items() if (value is not None or n in _SAID_BY_NONE) and not isinstance(value, Unsaid)}
    return {name: None if isinstance(value, float) and value == math.inf else value for name, value in given.items()}


def told_settings(arguments: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], RunFolder | None, dict[str, Any]]:
    """(settings, folder, what is new of them) of a run that `train` begins, without a folder as yet, or resumes."""
    resume = arguments["resume"]
    if resume is None:
        return new_settings(arguments, names), None, {}
    if arguments["agent"] is not None:
        raise SettingError("train: agent and resume are both given, expected one of them: a resumed run has its own agent")
    folder = RunFolder.open(resume)
    if Path(os.path.abspath(resume)) not in (folder.path, folder.last):
        raise ValueError(f"resume is {str(resume)!r}, expected the run's folder: a run resumes from its checkpoint `last` only")
    settings, changes = resumed_settings(folder, arguments, names)
    settings["env_kwargs"] = from_json(settings.get("env_kwargs"))
    return settings, folder, changes


def new_settings(arguments: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of a new run: what was said, else what the agent has, else the preset's. ``arguments`` and ``names`` are those of `train`."""
    told, agent = said(arguments), arguments["agent"]
    algo, env, by_id = told["algo"], told["env"], isinstance(told["env"], str)
    chosen = preset(algo, env if by_id else None)
    if agent is None:
        config = {**chosen.config, **told["config"]}
        make_config(algo, config, names)
        own = {"seed": fresh_seed() if arguments["seed"] is None else int(arguments["seed"])}
        shared_out = math.lcm(told.get("workers", 1), told.get("replay_shards", 1))
        own["num_envs"] = getattr(env, "num_envs", -(-chosen.num_envs // shared_out) * shared_out)
    else:
        config = _config_of(agent, told, names)
        own = {"seed": agent.seed, "num_envs": agent.num_envs}
    for name in ("worker_engine", "max_policy_lag", "address", "learners", "replay_shards", "samples_per_insert", "remote_shards"):
        if told.get(name) and "workers" not in told:
            raise SettingError(f"train: {name} is {told[name]!r}, but there are no workers; leave it out, or set workers")
    limits = {name: told[name] for name in ("total_steps", "total_episodes") if told.get(name) is not None}
    limits = limits or {"total_steps": chosen.total_steps, "total_episodes": chosen.total_episodes}
    return {
        "algo": algo, "env": env if by_id else getattr(env, "__name__", type(env).__name__), "by_id": by_id,
        "preset": preset_name(algo, env if by_id else None) if agent is None else None,
        "warm_start": agent is not None,
        **own, "total_steps": None, "total_episodes": None, "backend": "auto", "env_kwargs": {}, "max_episode_steps": None,
        "env_timeout": ENV_TIMEOUT,
        "eval_every": None, "eval_episodes": int(arguments["eval_episodes"]), "stop_at_return": None,
        "stop_window": int(arguments["stop_window"]), "save_every_episodes": None,
        "workers": None, "worker_engine": None, "max_policy_lag": None, "address": None, "learners": None,
        "replay_shards": None, "samples_per_insert": None, "remote_shards": False, "overlap": False,
        **{name: value for name, value in told.items() if name not in (*_PER_CALL, "algo", "env", "agent", "run_dir", *limits)},
        **limits, "config": config,
    }  # fmt: skip


def resumed_settings(folder: RunFolder, arguments: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a resumed run, and which of them are new: {name: [before, now]}. SettingError names what it cannot change."""
    settings, told, changes = dict(folder.config), said(arguments), dict[str, Any]()
    for name, value in told.items():
        before = settings.get(name)
        if name in CHANGEABLE:
            if value != before:
                changes[name], settings[name] = [before, value], value
        elif name not in _PER_CALL and not _keeps(folder, name, value, before):
            _refuse(folder, name, value, before)
    was = make_config(settings["algo"], settings.get("config", {}))
    now = make_config(settings["algo"], {**settings.get("config", {}), **told["config"]}, names)
    for name in told["config"]:
        before, value = getattr(was, name), getattr(now, name)
        again = name in BROUGHT and is_own(before) and callable(value)  # what the run was given, which config.json has by name alone
        if value != before and not again and name not in CHANGEABLE_CONFIG:
            _refuse(folder, name, value, before)
        if name_of(value) != before if again else value != before:
            changes[name] = [before, name_of(value) if again else value]
        if value != before:
            settings["config"] = {**settings["config"], name: value}
    handed_in(settings.get("config", {}), {}, f"the run in {folder.path}")
    return settings, changes


def _keeps(folder: RunFolder, name: str, value: Any, before: Any) -> bool:
    """Whether an argument of a resumed run agrees with the run's setting."""
    if name == "env":  # an object of the program is there to be trained in; its spaces are compared later
        return value == before or not isinstance(value, str)
    if name == "run_dir":
        return value is True or (value is not False and Path(value).resolve() == folder.path.resolve())
    if name == "env_kwargs":
        return to_json(value, name) == (before or {})
    if name in ("overlap", "remote_shards"):  # older versions did not keep them
        return bool(value) == bool(before)
    return value == before or (name == "backend" and value == "auto")


def _refuse(folder: RunFolder, name: str, value: Any, before: Any) -> None:
    rest = ", ".join((*CHANGEABLE, *CHANGEABLE_CONFIG))
    raise SettingError(
        f"train: {name} is {value!r}, but the run in {folder.path} has {before!r}: a resumed run keeps its settings, but for {rest}"
    )


def _config_of(agent: Agent, told: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config of an agent that continues to learn; SettingError names a setting that is not its own."""
    own = {field.name: getattr(agent.config, field.name) for field in dataclasses.fields(agent.config)}
    for name, value, has in (("algo", told["algo"], agent.name), *((n, told.get(n), getattr(agent, n)) for n in ("seed", "num_envs"))):
        if value is not None and value != has:
            raise SettingError(f"train: {name} is {value!r}, but agent has {has!r}, which it keeps; leave it out")
    config = make_config(agent.name, {**own, **told["config"]}, names)
    for name in told["config"]:
        if getattr(config, name) != own[name]:
            value = getattr(config, name)
            raise SettingError(f"train: {name} is {value!r}, but agent has {own[name]!r}: it keeps its own config; leave it out")
    return own


def to_json(value: Any, what: str) -> Any:
    """``value`` as JSON that `from_json` makes the same of again: numbers, text, lists, mappings by text; and, marked, tuples,
    NumPy arrays and numbers that JSON does not have. SettingError names the part that is something else."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and type(value) in (int, float):
        return value if math.isfinite(value) else {"pyrl:float": repr(value)}
    if isinstance(value, list):
        return [to_json(entry, f"{what}[{i}]") for i, entry in enumerate(value)]
    if type(value) is tuple:
        return {"pyrl:tuple": [to_json(entry, f"{what}[{i}]") for i, entry in enumerate(value)]}
    if type(value) is np.ndarray and value.dtype.kind in "biufU" and value.size <= _LARGEST:
        return {"pyrl:array": [value.dtype.str, list(value.shape), [to_json(x, what) for x in value.ravel().tolist()]]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(entry, f"{what}[{key!r}]") for key, entry in value.items()}
    shown = f"an array of {value.size} {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r:.100}"
    raise SettingError(
        f"train: {what} is {shown}, which cannot be saved with the run, expected numbers, text, arrays of at most {_LARGEST:,} numbers, "
        "and lists, tuples and mappings of them; run_dir=False saves nothing"
    )


def from_json(value: Any) -> Any:
    """What `to_json` was given."""
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"pyrl:float"}:
        return float(value["pyrl:float"])
    if value.keys() == {"pyrl:tuple"}:
        return tuple(from_json(entry) for entry in value["pyrl:tuple"])
    if value.keys() == {"pyrl:array"}:
        dtype, shape, entries = value["pyrl:array"]
        return np.array(from_json(entries), np.dtype(dtype)).reshape(shape)
    return {key: from_json(entry) for key, entry in value.items()}
