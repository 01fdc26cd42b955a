"""Atari 2600 games by ale-py, with the preprocessing that everybody trains with (Mnih et al. 2015).

An observation is a stack of the latest 4 pictures, [4, 84, 84] and grey, oldest first, zeros before an episode's first; a step is
4 frames, the last two of them joined by their maximum. An episode starts with up to 30 no-ops, and FIRE where a game waits for
it. A lost life is *terminated* for the learner (`pyrl.envs.stepper`); rewards are the game's, and clipped by the agent
(``clip_reward``), so that scores are those of whole games.

Ids keep their meaning: in those of v5 an action is repeated with probability 0.25 ("sticky", Machado et al. 2018), and
``repeat_action_probability=0`` gives the older protocol. ``env_kwargs`` are those of ale-py's `AtariVectorEnv`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

PADDING = "zero"  # what ale-py has before an episode's first picture


def is_atari(spec: EnvSpec | None) -> bool:
    return spec is not None and spec.namespace == "ALE"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What both ways of making a game are told; names and values as in ale-py, but for lives and rewards."""

    frameskip: int = 4
    stack_num: int = 4
    img_height: int = 84
    img_width: int = 84
    grayscale: bool = True
    noop_max: int = 30
    use_fire_reset: bool = True
    episodic_life: bool = True


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
    told = {name: value for name, value in dataclasses.asdict(wanted).items() if name != "episodic_life"}
    if limit is not None:
        rest["max_num_frames_per_episode"] = limit * wanted.frameskip
    return gymnasium.make_vec(
        spec, num_envs, vectorization_mode="vector_entry_point", **told, **rest,
        reward_clipping=False, autoreset_mode=mode or AutoresetMode.SAME_STEP,
    )  # fmt: skip


def make_single(spec: EnvSpec, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """One game, preprocessed in Python: what can be wrapped and watched."""
    wanted, rest = preprocessing(kwargs)
    raw = gymnasium.make(spec, frameskip=1, disable_env_checker=True, **rest)
    game = AtariPreprocessing(
        Game(raw, wanted.use_fire_reset, wanted.episodic_life), noop_max=wanted.noop_max, frame_skip=wanted.frameskip,
        screen_size=(wanted.img_width, wanted.img_height), grayscale_obs=wanted.grayscale,
    )  # fmt: skip
    return FrameStackObservation(game, wanted.stack_num, padding_type=PADDING)


def described(kwargs: Mapping[str, Any]) -> tuple[tuple[int, str] | None, bool]:
    """`Stepper.frames` and `Stepper.episodic_life` of games made with these ``env_kwargs``."""
    wanted, _ = preprocessing(kwargs)
    return (wanted.stack_num, PADDING) if wanted.stack_num > 1 else None, wanted.episodic_life


class Game(gymnasium.Wrapper):
    """A game that begins, and that says whether its lost lives are terminal for the learner."""

    def __init__(self, env: gymnasium.Env, use_fire_reset: bool, episodic_life: bool) -> None:
        super().__init__(env)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self.fire = meanings.index("FIRE") if use_fire_reset and "FIRE" in meanings else None
        self.episodic_life = episodic_life

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if self.fire is not None:
            observation, _, _, _, info = self.env.step(self.fire)
        return observation, info
