"""What loops on an engine share: collectors run while the loop does, and the books are closed at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pyrl.distributed.chunks import Accounts, Chunk
from pyrl.distributed.shard import Shard, ShardSpec
from pyrl.loops.base import Loop
from pyrl.types import Metrics


class Engine(Protocol):
    """How collectors run, and how chunks and weights travel."""

    accounts: Accounts
    in_step: bool  # whether the arrays of chunks are in use until the next weights are published
    exact: bool  # whether collectors rest between two rounds, with a state from which they go on as if they had never stopped

    @property
    def running(self) -> bool: ...

    def start(self, env_steps: int) -> None:
        """New collectors, and new episodes everywhere."""

    def take(self, stopped: Callable[[], bool]) -> tuple[list[Chunk], Callable[[], None]] | None:
        """As many chunks as an update of on-policy agents needs, and what to call when their arrays have been read; None if ``stopped``."""

    def take_ready(self, stopped: Callable[[], bool], idle: Callable[[], bool]) -> list[tuple[Chunk, Callable[[], None]]]:
        """All chunks that are there, each with what to call when its arrays have been read; at least one, unless ``stopped`` or no longer
        ``idle``: there is something else to do."""

    def make_shard(self, spec: ShardSpec) -> Shard:
        """A shard, or what speaks to one elsewhere; in the place of the one that had this index before."""

    def publish(self) -> None:
        """The learner's weights, to whoever asks for some."""

    def metrics(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]:
        """Of the collectors; empty where they begin new episodes."""

    def load_state_dict(self, states: Any, env_steps: int) -> None: ...

    def stop(self) -> None:
        """No collector is left, and every step is accounted for."""

    def close(self) -> None:
        """As `stop`, and no shard is left."""


class EngineLoop(Loop):
    """Its ``engine`` collects; ``stepper`` is an example of the environments, which is not stepped."""

    engine: Engine

    def __iter__(self) -> Iterator[Metrics]:
        failed = True
        try:
            yield from super().__iter__()
            failed = False
        except GeneratorExit:
            failed = False
            raise
        finally:
            if not self.engine.exact:
                self.engine.stop()
            if not failed:  # else its error says more
                self.check_books()

    def check_books(self) -> None:
        """AccountingError if a step was lost or counted twice."""
        self.engine.accounts.check()

    def close(self) -> None:
        """No environment and no process is left."""
        self.engine.close()

    @property
    def can_continue(self) -> bool:
        return bool(self.engine.running)

    def reset(self) -> None:
        self.engine.start(self.agent.env_steps)

    def _episodes_under_way(self) -> dict[str, Any]:
        collectors = self.engine.state_dict() if self.engine.running else {}
        return {"collectors": collectors} if collectors else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        collectors = rest.pop("collectors", None)
        super().load_state_dict(rest)
        if collectors is not None:
            self.engine.load_state_dict(collectors, self.agent.env_steps)
