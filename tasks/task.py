"""The vocabulary every package shares: what a task is, what a subgoal is, how a plan is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tasks.actions import ActionSpec
from tasks.episode import Episode

SEEDS_APART = 10_000  # layouts of different ``seed=`` don't overlap below this many episodes


class PlanError(ValueError):
    """A plan or instruction that names something unknown or makes no sense; says what and why."""


@dataclass(frozen=True)
class Subgoal:
    """One step of a plan. ``text`` is all the world model is told."""

    text: str
    kind: str
    object: str
    target: str | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The words a plan may use."""

    kinds: tuple[str, ...]
    objects: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """One episode's beginning: where everything stands and what is asked.

    Attributes:
        seed: what it was drawn from.
        instruction: free text for the decomposer.
        names: the N things that have a place.
        starts: ``(N, 3)`` float64, x y z in the task's unit; of a walker x, y and yaw in degrees.
        plan: the subgoals that carry out the instruction, in order.
    """

    seed: int
    instruction: str
    names: tuple[str, ...]
    starts: np.ndarray
    plan: tuple[Subgoal, ...]

    def start(self, name: str) -> np.ndarray:
        return self.starts[self.names.index(name)]


@dataclass(frozen=True)
class Score:
    """How near an episode came to its waypoints.

    Attributes:
        distances: per waypoint that the plan names, in the task's unit.
        reached: per waypoint, whether it counts as a success.
        displaced: per waypoint, whether the thing was moved away first; a robot that stands still
            has none and cannot score well. Empty where nothing is to be moved away.
        details: further named figures of the task.
    """

    distances: Mapping[str, float]
    reached: Mapping[str, bool]
    displaced: Mapping[str, bool]
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def distance(self) -> float:
        return float(np.mean(list(self.distances.values())))

    @property
    def success(self) -> bool:
        return all(self.reached.values())


class Task(ABC):
    """What is asked, in which words, from which layouts, and how an episode is scored.

    Subclasses are frozen dataclasses whose fields come from the task's yaml.

    Attributes:
        name: as in ``task=NAME``.
        instruction: the shape of the instructions that layouts carry, for people to read.
        unit: of every position and distance (``m`` or ``blocks``).
        tolerance: a waypoint nearer than this is reached, in ``unit``.
        train_seeds: layouts for training; disjoint from ``heldout_seeds``.
        chunk_frames: new frames per subgoal.
        figure: what an episode is measured by, in ``unit``.
        headline: a run's mean, for a report, with ``{figure}`` for the number.
        success_means: when an episode counts as a success, with ``{tolerance}`` for that.
        displaced_means: what the share ``displaced`` is of, for a report.
        not_displaced: what is said of a waypoint that is not ``displaced``.
        measured: one or two sentences on what a figure is, for reports.
    """

    name: str
    instruction: str
    unit: str
    tolerance: float
    chunk_frames: int
    train_seeds: range
    heldout_seeds: range
    figure: ClassVar[str] = "distance"
    headline: ClassVar[str] = "{figure} from the start on average"
    success_means: ClassVar[str] = "back within {tolerance}"
    displaced_means: ClassVar[str] = "of the things to return were moved away first"
    not_displaced: ClassVar[str] = "never moved away"
    measured: ClassVar[str] = (
        "Distance: between where a thing started and where it ended, mean over what the plan returns."
    )

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary: ...

    @property
    @abstractmethod
    def action_spec(self) -> ActionSpec: ...

    @property
    def places(self) -> dict[str, np.ndarray]:
        """``(3,)`` of each named place, to draw."""
        return {}

    @abstractmethod
    def layout(self, seed: int, moves: Mapping[str, str] | None = None) -> Layout:
        """The layout of a seed; with ``moves`` (see :meth:`moves`), one in which these can be asked."""

    @abstractmethod
    def subgoal(self, kind: str, object: str, target: str | None = None) -> Subgoal:
        """The subgoal with its caption. Raises PlanError on a word outside the vocabulary."""

    @abstractmethod
    def check_plan(self, plan: Sequence[Subgoal]) -> None:
        """Raise PlanError unless the plan makes sense from the start of an episode."""

    def completed(self, plan: Sequence[Subgoal]) -> tuple[Subgoal, ...]:
        """A plan as an instruction tells it, with the steps that it leaves to the task."""
        return tuple(plan)

    def plan_of(self, asked: Sequence[Subgoal]) -> Sequence[Subgoal]:
        """The plan at whose end the expert finds what the last of a person's subgoals asks for; a person asks for one
        at a time, and need not go the way of a plan.

        Raises:
            PlanError: the last one asks for something that can't be done after the others.
        """
        return asked

    def as_told(self, instruction: str) -> tuple[Subgoal, ...] | None:
        """The plan of an instruction that is itself the caption, whatever it says; None where one has to be read.

        Raises:
            PlanError: it says nothing.
        """
        return None

    @abstractmethod
    def moves(self, plan: Sequence[Subgoal]) -> dict[str, str]:
        """The outward moves a plan asks for, in order: what (an object, a step) → where to."""

    def explored(self, plan: Sequence[Subgoal]) -> int:
        """How many of a plan's first subgoals the expert carries out before planning begins; what the
        camera saw of them enters the world model as observed."""
        return 0

    def landmarks(self, starts: np.ndarray, plan: Sequence[Subgoal]) -> dict[str, np.ndarray]:
        """``(2,)`` of each waypoint that is no thing's start, to draw; ``starts`` as in a layout."""
        return {}

    @property
    def retraces(self) -> bool:
        """Whether the second half of an episode undoes its first: frame k and frame T - 1 - k of T show the
        same view."""
        return False

    # --- what figures are compared with ------------------------------------------------------

    def idle_track(self, layout: Layout) -> np.ndarray:
        """``(T, N, 3)`` positions when nobody moves once what is ``explored`` is done."""
        return np.stack([layout.starts, layout.starts])

    def constant_guess_track(self, layout: Layout) -> np.ndarray | None:
        """``(T, N, 3)`` positions under flawless hands that know nothing of the layout; None if the task
        has no such guess."""
        return None

    def random_chunk(self, rng: np.random.Generator) -> np.ndarray | None:
        """``(F, A)`` actions of a chunk drawn blindly from what an agent can do; None if the task has none."""
        return None

    # --- measuring ---------------------------------------------------------------------------

    @abstractmethod
    def score(
        self, positions: np.ndarray, released: np.ndarray, names: Sequence[str], plan: Sequence[Subgoal]
    ) -> Score:
        """Score a track.

        Args:
            positions: ``(T, N, 3)`` in ``unit``.
            released: ``(T, N)`` bool, whether each thing stands free at that frame.
            names: the N names.
            plan: the validated plan; only what it names counts.
        """

    def released(self, episode: Episode) -> np.ndarray:
        """``(T, N)`` bool: which things stand free at each frame of an executed episode; all of them,
        unless the task has something that holds."""
        return np.ones(episode.positions.shape[:2], bool)


def held_out_seeds(seeds: range, seed: int, episodes: int) -> list[int]:
    """The layouts of a run: ``episodes`` consecutive held-out seeds, elsewhere for each ``seed``.

    Raises:
        ValueError: more episodes than lie between two seeds, or a seed beyond the held-out ones.
    """
    most, apart = max(1, len(seeds) // SEEDS_APART), min(SEEDS_APART, len(seeds))
    if not 0 <= seed < most:
        raise ValueError(f"seed={seed}: expected 0 to {most - 1}, each with held-out layouts of its own")
    if episodes > apart:
        raise ValueError(f"episodes={episodes}: at most {apart} in one run")
    first = seed * SEEDS_APART
    return list(seeds[first : first + episodes])
