"""Atari 2600 games by ale-py, with the preprocessing that everybody trains with (Mnih et al. 2015).

An observation is a stack of the latest 4 frames, [4, 84, 84] and grey, oldest first, zeros before an episode's first; a step is
4 frames, the last two of them joined by their maximum. An episode starts with up to 30 no-ops, and FIRE where a game waits for
it. A lost life is *terminated* for the learner, and the step after it is not a transition: it presses FIRE again
(`pyrl.envs.stepper`). Rewards are the game's, and clipped by the agent (``clip_reward``): scores are those of whole games.

Ids keep their meaning: in those of v5 an action is repeated with probability 0.25 ("sticky", Machado et al. 2018), which may
swallow the FIRE at a start, and ``repeat_action_probability=0`` gives the older protocol.
``env_kwargs`` are those of ale-py's `AtariVectorEnv`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

PADDING = "zero"  # what ale-py has before an episode's first frame


def is_atari(spec: EnvSpec | None) -> bool:
    return spec is not None and spec.namespace == "ALE"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What both ways of making a game are given; names and values as in ale-py, except for lives and rewards."""

    frameskip: int = 4
    stack_num: int = 4
    img_height: int = 84
    img_width: int = 84
    grayscale: bool = True
    noop_max: int = 30
    use_fire_reset: bool = True
    episodic_life: bool = True

    @property
    def fires(self) -> bool:
        """Whether a lost life is followed by FIRE, where a game has it."""
        return self.episodic_life and self.use_fire_reset


_FIELDS = {field.name for field in dataclasses.fields(Preprocessing)}


def preprocessing(kwargs: Mapping[str, Any]) -> tuple[Preprocessing, dict[str, Any]]:
    """``env_kwargs`` in two: what this file does, and what is left for ale-py."""
    if "reward_clipping" in kwargs or "life_loss_info" in kwargs:
        raise TypeError(
            "reward_clipping and life_loss_info are not taken: rewards stay the game's (clip_reward is the agent's), "
            "and episodic_life says whether a lost life is terminal"
        )
    ours = {name: value for name, value in kwargs.items() if name in _FIELDS}
    return Preprocessing(**ours), {name: value for name, value in kwargs.items() if name not in _FIELDS}


def make_vector(spec: EnvSpec, num_envs: int, kwargs: Mapping[str, Any], limit: int | None, mode: AutoresetMode | None) -> VectorEnv:
    """ale-py's own vector environment: C++ threads. ``limit`` counts steps."""
    wanted, rest = preprocessing(kwargs)
    given = {name: value for name, value in dataclasses.asdict(wanted).items() if name != "episodic_life"}
    if limit is not None:
        rest["max_num_frames_per_episode"] = limit * wanted.frameskip
    games = gymnasium.make_vec(
        spec, num_envs, vectorization_mode="vector_entry_point", **given, **rest,
        reward_clipping=False, autoreset_mode=mode or AutoresetMode.SAME_STEP,
    )  # fmt: skip
    names = [action.name for action in games.unwrapped.ale.get_action_set()]  # type: ignore[attr-defined]
    fires = wanted.fires and "FIRE" in names and isinstance(games.single_action_space, spaces.Discrete)
    return FiringVector(games, names.index("FIRE")) if fires else games


def make_single(spec: EnvSpec, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """One game, preprocessed in Python: what can be wrapped and watched."""
    wanted, rest = preprocessing(kwargs)
    game = gymnasium.make(spec, frameskip=1, disable_env_checker=True, **rest)
    names = game.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    fire = names.index("FIRE") if "FIRE" in names and isinstance(game.action_space, spaces.Discrete) else None
    if wanted.use_fire_reset and fire is not None:
        game = FireAtReset(game, fire)
    game = AtariPreprocessing(
        game, noop_max=wanted.noop_max, frame_skip=wanted.frameskip,
        screen_size=(wanted.img_width, wanted.img_height), grayscale_obs=wanted.grayscale,
    )  # fmt: skip
    if wanted.episodic_life:
        game = EpisodicLife(game, fire if wanted.fires else None)
    return FrameStackObservation(game, wanted.stack_num, padding_type=PADDING)


class FireAtReset(gymnasium.Wrapper):
    """Before the no-ops, as ale-py does it."""

    def __init__(self, env: gymnasium.Env, fire: int) -> None:
        super().__init__(env)
        self.fire = fire

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        observation, _, _, _, info = self.env.step(self.fire)
        return observation, info


class EpisodicLife(gymnasium.Wrapper):
    """Lost lives are terminal for the learner, as `pyrl.envs.stepper` reads here; FIRE is pressed after them, if there is one."""

    episodic_life = True

    def __init__(self, env: gymnasium.Env, fire: int | None) -> None:
        super().__init__(env)
        self.fire = fire
        self.fires = fire is not None
        self.lives, self.lost = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.lives, self.lost = 0, False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(self.fire if self.lost and self.fires else action)
        lives = result[-1]["lives"]
        self.lives, self.lost = lives, 0 < lives < self.lives
        return result


class FiringVector(VectorWrapper):
    """The same FIRE in all games of a vector environment."""

    fires = True

    def __init__(self, env: VectorEnv, fire: int) -> None:
        super().__init__(env)
        self.fire = fire
        self.lives, self.lost = np.zeros(env.num_envs, np.int64), np.zeros(env.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.lives, self.lost = np.zeros_like(self.lives), np.zeros_like(self.lost)
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._seen(self.env.step(np.where(self.lost, self.fire, actions)))

    def send(self, actions: Any) -> None:
        self.env.send(np.where(self.lost, self.fire, actions))  # type: ignore[attr-defined]

    def recv(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._seen(self.env.recv())  # type: ignore[attr-defined]

    def _seen(self, result: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        lives = result[-1]["lives"]
        self.lives, self.lost = lives, (lives > 0) & (lives < self.lives)
        return result
