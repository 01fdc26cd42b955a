"""Ids of environments: from a name to what Gymnasium has registered under it, or to words that help."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator

import gymnasium
from gymnasium.envs.registration import EnvSpec

from pyrl.envs.native_library import is_library, library_spec
from pyrl.errors import EnvError, UnknownNameError, closest_names

# Where an environment comes from -> the extra of pyrl that brings its packages.
_EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco", "ale_py": "atari", "shimmy": "atari"}
# PongNoFrameskip-v4, Pong-ramDeterministic-v0: how games were named before they moved to ALE/.
_OLD_GAME = re.compile(r"(?P<game>[A-Z][A-Za-z0-9]*?)(?P<sort>(-ram)?(NoFrameskip|Deterministic)?)-v[0-5]$")


def find_spec(env_id: str) -> EnvSpec:
    """The registered environment of ``"Name-v0"`` or ``"module:Name-v0"``, whose module is imported first; or the environment of a
    shared library, ``"./libmyenv.so:Name"``.

    UnknownNameError with the closest ids where there is none, ModuleNotFoundError where a package is missing, EnvError for a library
    that cannot be loaded.
    """
    module, _, name = env_id.rpartition(":")
    if is_library(module):
        return library_spec(module, name)
    if is_library(name):
        raise UnknownNameError(f"{env_id} is a library; name its environment too: {env_id}:NAME")
    if module.endswith((".c", ".cpp")):
        raise UnknownNameError(f"{env_id} is a source file; compile it to a shared library first (docs/native_environments.md)")
    if module:
        import_module(env_id, module)
    if name.startswith("ALE/") and not _register_atari():
        raise ModuleNotFoundError(f"{env_id} needs a package that is not installed: pip install 'pyrl[atari]'")
    game = _atari_name(name)
    if game is not None:
        raise UnknownNameError(
            f"unknown environment {env_id!r}; did you mean {game}? Frames are skipped, stacked and scaled there (`pyrl.envs.atari`)"
        )
    try:
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        known = closest_names(name, gymnasium.registry) or "; environments of a module of yours are named module:Name-v0"
        raise UnknownNameError(f"unknown environment {env_id!r}{known} ({error})") from error


def import_module(env_id: str, module: str) -> None:
    """Import what registers ``env_id``."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ModuleNotFoundError(f"{env_id}: importing {module} failed: {error}", name=error.name) from error
        raise UnknownNameError(f"unknown environment {env_id!r}: there is no module {module!r} here or in sys.path") from error
    except (Exception, SystemExit) as error:
        raise EnvError(f"{env_id}: importing {module} raised {type(error).__name__}: {error}") from error


def _register_atari() -> bool:
    """Whether Atari games are registered now."""
    try:
        gymnasium.register_envs(importlib.import_module("ale_py"))
    except ImportError:
        return False
    return True


def _atari_name(name: str) -> str | None:
    """The name under ALE/ of a game's old id, registered or not; None for any other id."""
    match = _OLD_GAME.match(name)
    spec = gymnasium.registry.get(name)
    if match is None or (spec is not None and not str(spec.entry_point).startswith(("ale_py", "shimmy"))):
        return None
    modern = f"ALE/{match['game']}-v5"
    # Without a suffix it may be anybody's: it is a game's where ale-py has the game.
    return modern if match["sort"] or (_register_atari() and modern in gymnasium.registry) else None


@contextlib.contextmanager
def needs_packages(spec: EnvSpec) -> Iterator[None]:
    """Turns a missing package of a registered environment into the command that installs it."""
    try:
        yield
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        origin = str(spec.entry_point or spec.vector_entry_point)
        extra = next((e for prefix, e in _EXTRAS.items() if origin.startswith(prefix)), None)
        remedy = f"pip install 'pyrl[{extra}]'" if extra else str(error)
        raise ModuleNotFoundError(f"{spec.id} needs a package that is not installed: {remedy}") from error
