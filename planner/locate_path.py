"""The instrument for the imagined path: adds up the actions that are read off frames, from a known start.

The way out is walked by the explorer and is known; what is imagined begins where it ended, and so does what is added
up, lest the reader's drift on the way out pass for the world model's. It sees a walk on open ground: where a wall stops
an agent, the frames have to show that it stands still. Its error grows with the way, so that it is measured on
the true frames of whole ways back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.base import TaskEnv
from inverse_dynamics.model import InverseDynamics
from planner.locator import Located
from tasks import Episode, Segment, Subgoal, Task
from tasks.path_retrace import AGENT, RETURN_CAPTION, PathRetrace


class PathLocator:
    """Integrates an inverse dynamics model's actions to the poses of ``path_retrace``'s agent.

    Args:
        task: says how far a key walks.
        reader: reads the actions.
    """

    names: tuple[str, ...] = (AGENT,)
    unit = "blocks"
    scale = 1.0

    def __init__(self, task: Task, reader: InverseDynamics):
        if not isinstance(task, PathRetrace):
            raise ValueError(f"a path is integrated from keys and camera; task={task.name} walks none")
        if reader.spec.names != task.action_spec.names:
            raise ValueError(
                f"the inverse dynamics model reads {', '.join(reader.spec.names)}, task={task.name} has "
                f"{', '.join(task.action_spec.names)}; give the model of this task"
            )
        self.task, self.reader = task, reader

    @classmethod
    def of_parts(cls, task: Task, env: TaskEnv, reader: InverseDynamics) -> PathLocator:
        """As a configuration makes it; needs nothing of the env."""
        return cls(task, reader)

    def poses(self, frames: np.ndarray, start: np.ndarray) -> np.ndarray:
        """``(T, 3)`` poses at ``(T, H, W, 3)`` uint8 frames, of which the first shows ``(3,)`` start."""
        return self.task.walked(start, self.reader.actions(frames[None])[0])

    def follow(self, frames: np.ndarray, starts: np.ndarray, plan: Sequence[Subgoal]) -> Located:
        out = plan[: self.task.explored(plan)]
        known = self.task.poses(starts[0], out)[: len(frames)]
        rest = frames[len(known) - 1 :]
        back = self.poses(rest, known[-1])[1:] if len(rest) > 1 else known[:0]
        track = np.concatenate([known, back])[:, None]
        return Located(track, track, np.ones(track.shape[:2], bool))

    def errors(self, episode: Episode, frames: np.ndarray) -> np.ndarray:
        """As the protocol says, of the chunks of the way back; of all where there is none."""
        told, true = [s.caption == RETURN_CAPTION for s in episode.segments], episode.position(AGENT)
        back = episode.segments[told.index(True) if any(told) else 0 :]
        first, ends = back[0].start, np.array([s.stop for s in back])
        read = self.poses(frames[first:], true[first])
        return np.linalg.norm(read[ends - first, :2] - true[ends, :2], axis=-1)

    def chunk_error(
        self, episode: Episode, segment: Segment, subgoal: Subgoal, frames: np.ndarray
    ) -> float | None:
        true = episode.position(AGENT)
        shown = np.concatenate([episode.frames[segment.start][None], frames])
        read = self.poses(shown, true[segment.start])[-1]
        return float(np.linalg.norm(read[:2] - true[segment.stop][:2]))

    def pixel(self, episode: Episode) -> float | None:
        return None
