"""What the environments share whose simulator runs in a worker process: begin, lose it, begin again."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.base import EpisodeLostError, TaskEnv
from envs.wire import Arrays, Reply
from envs.worker import CallError, Worker, WorkerError

NOT_BEGUN = "no episode has begun; reset it first"
LOST = "the simulator was lost and the episode is over; reset it first"


class RefusedError(EpisodeLostError):
    """The simulator can't begin this episode, and is ready for another."""


class RemoteEnv(TaskEnv):
    """A TaskEnv whose simulator answers calls in a process of its own.

    A simulator that dies, hangs or fails in the middle of an episode truncates it (``info["lost"]``); the
    next reset starts it again. No step is sent after an episode's end. Subclasses set ``names``.

    Args:
        worker: the simulator's process.
        image_size: side of the square frames, px.
        launch_timeout: seconds for starting the simulator, and for a reset.
        step_timeout: seconds for one step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium's own type)
    starts_at_reset = False  # the simulator itself is started by the first reset, not at its launch

    def __init__(
        self,
        worker: Worker,
        image_size: int,
        launch_timeout: float,
        step_timeout: float,
        render_mode: str | None,
    ):
        self.worker, self.render_mode = worker, render_mode
        self.launch_timeout, self.step_timeout = launch_timeout, step_timeout
        self.action_space = self.action_box()
        self.observation_space = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self._frame = np.zeros((image_size, image_size, 3), np.uint8)
        self._positions = np.zeros((len(self.names), 3))
        self._over, self._has_begun = NOT_BEGUN, False

    def _launch(self) -> None:
        """Start the simulator in a fresh process and read what stays the same until it ends."""
        raise NotImplementedError

    def _see(self, arrays: Arrays) -> None:
        """Take frame and positions from a reply."""
        self._frame, self._positions = arrays["frame"], arrays["positions"].astype(np.float64)

    def render(self) -> np.ndarray:
        return self._frame

    def close(self) -> None:
        self.worker.close()

    def _begin(self, call: str, data: dict[str, Any], arrays: Arrays, again: bool = True) -> Reply:
        """Make a call that begins an episode; with ``again`` a simulator that fails at it is started anew once.

        Raises:
            RefusedError: the simulator answers that it can't; it lives on.
            EpisodeLostError: the call raised an error in it.
            WorkerError: it can't be started, or dies or hangs of the call. Where a simulator starts at its first reset,
                an error there says that it can't be, not that the episode is lost.
        """
        self._over = NOT_BEGUN
        for last in (not again, True):
            if not self.worker.alive:
                self.worker.close()
                self._launch()
            try:
                reply, seen = self.worker.call(call, data, arrays, self.launch_timeout)
                break
            except CallError as error:
                self.worker.close()  # what state it is in is unknown
                if last:
                    text = f"env={self.worker.name} can't {call} seed {data.get('seed')}: {error}"
                    if self.starts_at_reset and not self._has_begun:
                        raise WorkerError(f"{text}; {self.worker.advice}") from None
                    raise EpisodeLostError(text) from None
            except WorkerError:
                if last:
                    raise
        if "refused" in reply:
            raise RefusedError(
                f"env={self.worker.name} can't {call} seed {data.get('seed')}: {reply['refused']}"
            )
        self._over, self._has_begun = "", True
        self._see(seen)
        return reply, seen

    def _send(self, call: str, data: dict[str, Any], arrays: Arrays) -> dict[str, Any] | str:
        """Make one step's call; the reply's data, or why the simulator is lost."""
        try:
            reply, seen = self.worker.call(call, data, arrays, self.step_timeout)
        except (WorkerError, CallError) as error:
            self.worker.close()
            self._over = LOST
            return f"SimulatorLostError: {error}"
        self._see(seen)
        return reply

    def _info(self, error: str | None = None) -> dict[str, Any]:
        info = {"positions": self._positions.copy(), "names": self.names, "error": error}
        return {**info, "lost": True} if self._over == LOST else info
