"""Do imagined videos follow their actions? Those read back off them, against the expert's of the same layouts.

A row's actions are the ones that it executed: the inverse dynamics model read them off its imagined frames, chunk by
chunk, the first of each from the frame that the chunk went on from. The camera's own frames, of what is explored
first, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import Subgoal
from tasks.following import ReadActions
from tasks.statistics import mean_interval
from world_model.video_metrics.videos import freeze, inject_cuts, shuffle

if TYPE_CHECKING:  # the page of results needs neither weights nor simulators
    from inverse_dynamics.model import InverseDynamics
    from planner.expert_episode import Experts
    from planner.loop import PlanResult

Figures = dict[str, dict[str, float]]
REFERENCES = {  # what the videos of a row stand between
    "true": "ceiling: the simulator's own frames",
    "autoencoded": "ceiling: autoencoded",
    "another_layout": "floor: another layout's",
    "frozen": "frozen: the first frame throughout",
    "shuffled": "shuffled: the true frames in random order",
    "cut_injected": "two hard cuts in the true frames",
}
LOW = ("another_layout", "frozen", "shuffled")  # what follows has to be above them, the intervals apart
BARS = {
    "true": LOW,
    "autoencoded": (*LOW, "cut_injected"),
}  # cut videos are right between the cuts: no bar of a row


class ActionFollowing:
    """Measures rows, and what they stand between, on the same layouts.

    Args:
        experts: whose actions were commanded.
        reader: the rows' own.
        autoencode: ``(T, H, W, 3)`` uint8 there and back; what is spoiled goes through it, as what is imagined does.
    """

    def __init__(
        self, experts: Experts, reader: InverseDynamics, autoencode: Callable[[np.ndarray], np.ndarray]
    ):
        self.experts, self.reader, self.autoencode = experts, reader, autoencode

    def __call__(self, results: Sequence[PlanResult]) -> Figures:
        """Figures of a row, mean and interval over its episodes: ``followed`` (share of actions), and apart for
        chunks whose captions tell what to do (``told``) and for ``returns``, which only a memory can follow; of a
        gripper ``position_mm`` and ``gripper``. Episodes of another plan than the layout's are left out; empty where
        none is left."""
        acted = {layout.seed: (layout.plan, episode) for layout, episode in self.experts.episodes}
        episodes = []
        for r in results:
            plan, expert = acted.get(r.layout.seed, ((), None))
            if expert is None or _asked(plan) != _asked(r.plan) or len(r.executed) != len(expert):
                continue
            at = self.experts.begin(plan) - 1
            episodes.append(self._figures(plan, r.executed.actions[at:], expert.actions[at:]))
        return _intervals(episodes)

    def references(self) -> dict[str, Figures]:
        """The ceilings, ``true`` and ``autoencoded``; the floor, ``another_layout``'s true video of as many frames;
        and what must not pass: the first frame ``frozen``, the frames ``shuffled``; and two hard cuts, which lie
        between. :func:`doubts` compares."""
        videos = self._videos
        spoiled = {name: [self._spoil(name, k) for k in range(len(videos))] for name in REFERENCES}
        found = {}
        for name, shown in spoiled.items():
            figures = [
                self._figures(plan, self.reader.actions(frames[None])[0], actions)
                for frames, (plan, _, actions) in zip(shown, videos, strict=True)
                if frames is not None
            ]
            if figures:
                found[name] = _intervals(figures)
        return found

    @cached_property
    def _videos(self) -> list[tuple[Sequence[Subgoal], np.ndarray, np.ndarray]]:
        """Of each layout the plan, ``(1 + n, H, W, 3)`` true frames and ``(n, A)`` actions of what is imagined."""
        begun = [(x.plan, e, self.experts.begin(x.plan) - 1) for x, e in self.experts.episodes]
        return [(plan, e.frames[at:], e.actions[at:]) for plan, e, at in begun]

    @cached_property
    def _autoencoded(self) -> list[np.ndarray]:
        return [self.autoencode(frames) for _, frames, _ in self._videos]

    def _spoil(self, name: str, k: int) -> np.ndarray | None:
        """The video that stands for the k-th in a reference; None where there is none."""
        frames, blurred = self._videos[k][1], self._autoencoded[k]
        if name == "another_layout":
            others = [v for _, v, _ in (*self._videos[k + 1 :], *self._videos[:k]) if len(v) == len(frames)]
            return np.concatenate([frames[:1], others[0][1:]]) if others else None
        if name == "shuffled":
            return np.concatenate([frames[:1], shuffle([blurred[1:]], seed=k)[0]])
        if name == "cut_injected":
            return inject_cuts([blurred], (len(frames) // 3, 2 * len(frames) // 3))[0]
        return {"true": frames, "autoencoded": blurred, "frozen": freeze([blurred])[0]}[name]

    def _figures(self, plan: Sequence[Subgoal], read: np.ndarray, commanded: np.ndarray) -> dict[str, float]:
        """Of one episode, whose imagined chunks are the plan's last."""
        actions = ReadActions.of(self.reader.spec, read, commanded)
        length = self.experts.env.task.chunk_frames
        imagined = plan[len(plan) - len(commanded) // length :]
        back = np.repeat([s.kind == "return" for s in imagined], length)
        figures = actions.figures()
        for name, steps in (("told", ~back), ("returns", back)):
            if steps.any():
                figures[name] = float(actions.followed[steps].mean())
        return figures


def _asked(plan: Sequence[Subgoal]) -> list[tuple[str, str, str | None]]:
    """What a plan asks for, in whatever words."""
    return [(s.kind, s.object, s.target) for s in plan]


def _intervals(episodes: Sequence[dict[str, float]]) -> dict[str, Any]:
    names = dict.fromkeys(name for e in episodes for name in e)
    return {n: mean_interval([e[n] for e in episodes if n in e]) for n in names}


@dataclass(frozen=True)
class Doubt:
    """A video that is not above one it has to be above: the intervals are not apart.

    Attributes:
        video: a row's name, or ``true`` or ``autoencoded``: then the reader can't be trusted.
        beside: one of ``REFERENCES``.
        share: the figure: ``told``, or ``followed`` where no caption tells what to do.
    """

    video: str
    beside: str
    share: str
    figure: Mapping[str, float]
    bar: Mapping[str, float]


def doubts(references: Mapping[str, Figures], rows: Mapping[str, Figures]) -> list[Doubt]:
    """Where a reader's ceilings, or rows, are not above the floor and what must not pass, by the share of actions
    followed where the caption tells."""
    found = []
    ceilings = [(n, references[n], bars) for n, bars in BARS.items() if n in references]
    for video, figures, bars in [*ceilings, *((n, figures, LOW) for n, figures in rows.items())]:
        share = "told" if "told" in figures else "followed"
        for beside in bars:
            figure, bar = figures.get(share), references.get(beside, {}).get(share)
            if figure and bar and figure["low"] <= bar["high"]:
                found.append(Doubt(video, beside, share, figure, bar))
    return found
