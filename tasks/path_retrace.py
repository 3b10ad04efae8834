"""``path_retrace``: walk out along a path, then retrace it (paper, Section 4.2: Minecraft).

A pose is x, y (blocks, seen from above: x east, y north) and yaw: degrees clockwise from north, unwrapped,
so that it grows by what the camera turns to the right. One chunk walks straight on or turns a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import ClassVar, Literal

import numpy as np

from tasks.actions import ActionSpec, keys_and_camera
from tasks.floor_plan import FloorPlan
from tasks.task import Layout, PlanError, Score, Subgoal, Task, Vocabulary

AGENT = "agent"
GO, TURN, RETURN = "go", "turn", "return"
CAPTIONS = {"forward": "go forward", "left": "turn left", "right": "turn right"}
RETURN_CAPTION = "go back along the path"
BACKWARD_CAPTION = "go backward"  # of a motion told for what it is; a plan's way back is not
QUARTER = 90.0  # degrees a chunk turns
TURNS = {"left": -QUARTER, "right": QUARTER}

SIDES = (1, 3)  # chunks walked along a side of a loop
MIN_APART = 2.0  # blocks between any two waypoints
CLEARANCE = 0.625  # blocks between the path and the nearest wall; a body is half a block from its middle
CAMERA_LIMIT = 45.0  # degrees the view may turn in one frame
GRAIN = 1 / 32  # blocks: starts lie on this grid, for Doom puts an agent on whole map units only
CANDIDATES, TRIALS = 256, 400  # places tried at once, and how often


@dataclass(frozen=True)
class Motion:
    """What one chunk does: ``walk`` +1 forward, -1 backward, 0 stands; ``turn`` degrees to the right."""

    walk: int
    turn: float

    @property
    def caption(self) -> str:
        if self.walk:
            return CAPTIONS["forward"] if self.walk > 0 else BACKWARD_CAPTION
        return CAPTIONS["right" if self.turn > 0 else "left"]


@dataclass(frozen=True)
class PathRetrace(Task):
    """An agent walks out, some chunks straight on and some quarter turns between them, and comes back.

    Waypoints are where each of the chunks that walk begins; on the way back they are to be passed in the
    opposite order, the start last. ``waypoint 1`` is the start.

    Attributes:
        map: a floor plan in ``tasks/maps/``.
        way_back: ``backward`` undoes each chunk, so that every view comes again; ``turn`` turns round
            first (two chunks), so that every view is new.
        stride: blocks that one frame walks.
        walks: fewest and most chunks walked on the way out. Fewer than five make paths shorter than those that
            figures are published for; they are for training and trying out.
        corners: fewest and most quarter turns on the way out, likewise two; at most one before each walk but
            the first.
        forks: steps back, at the least, at which walls leave more than one way open, so that only a memory of
            the way out tells which.
    """

    map: str = "my_way_home"
    way_back: Literal["backward", "turn"] = "backward"
    stride: float = 0.875
    walks: tuple[int, int] = (5, 5)
    corners: tuple[int, int] = (2, 2)
    forks: int = 1
    name: str = "path_retrace"
    instruction: str = "Go forward twice, turn left, go forward, then go back along the path."
    unit: str = "blocks"
    tolerance: float = 1.5
    chunk_frames: int = 4
    train_seeds: range = range(0, 1_000_000)
    heldout_seeds: range = range(1_000_000, 2_000_000)
    headline: ClassVar[str] = "{figure} from the waypoints on average"
    success_means: ClassVar[str] = "all waypoints passed in order, each within {tolerance}"
    displaced_means: ClassVar[str] = "of the waypoints lay out of reach where the way out ended"
    not_displaced: ClassVar[str] = "within reach at the end of the way out"
    measured: ClassVar[str] = (
        "Distance: from each waypoint of the way out to the nearest point of the path that follows the way "
        "out's last step, mean over the waypoints. A waypoint counts as reached if it is passed within the "
        "tolerance and in the right order."
    )
    floor_plan: FloorPlan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.way_back not in ("backward", "turn"):
            raise ValueError(f"way_back={self.way_back}: expected backward or turn")
        if not 0.5 <= self.stride <= 1.0:
            raise ValueError(f"stride={self.stride}: expected 0.5 to 1 blocks a frame")
        for key, least in (("walks", 1), ("corners", 0)):
            object.__setattr__(self, key, _bounds(key, getattr(self, key), least))
        if self.corners[0] >= self.walks[0]:
            raise ValueError(
                f"corners={list(self.corners)}: {self.walks[0]} walks have room for "
                f"{self.walks[0] - 1} between them; give fewer, or more walks"
            )
        if type(self.forks) is not int or not 0 <= self.forks < self.walks[0]:
            raise ValueError(
                f"forks={self.forks}: expected 0 to {self.walks[0] - 1}, one less than the walks"
            )
        object.__setattr__(self, "floor_plan", FloorPlan.load(self.map))

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary((GO, TURN, RETURN), (AGENT,), tuple(CAPTIONS))

    @property
    def action_spec(self) -> ActionSpec:
        return keys_and_camera(CAMERA_LIMIT)

    # --- layouts -----------------------------------------------------------------------------

    def layout(self, seed: int, moves: Mapping[str, str] | None = None) -> Layout:
        """The layout of a seed; with ``moves`` (step → forward, left or right), one whose path is that.

        Raises:
            PlanError: the map has no place for the path.
        """
        rng = np.random.default_rng([seed, 20241031])
        given = self._plan(list(moves.values())) if moves else None
        if given:
            self.check_plan(given)
        for _ in range(TRIALS):
            drawn = self._fit(rng, given) if given else self._grow(rng)
            if drawn is not None:
                start, plan = drawn
                return Layout(seed, self._instruction(plan), (AGENT,), start[None], plan)
        asked = "one like that; ask for another" if given else "a path that long; give another map"
        raise PlanError(f"map={self.map} has no place for {asked}")

    def loop(self, seed: int) -> Layout:
        """A layout of a seed whose plan is one lap round a rectangle, to the right or to the left; its sides
        are drawn, one to three chunks long, until they fit.

        Raises:
            PlanError: the map has no place for a loop.
        """
        rng = np.random.default_rng([seed, 20250311])
        for _ in range(TRIALS):
            side, other = rng.integers(SIDES[0], SIDES[1] + 1, 2)
            turn = str(rng.choice(list(TURNS)))
            half = [*["forward"] * side, turn, *["forward"] * other, turn]
            drawn = self._fit(rng, self._way_out(half * 2))
            if drawn is not None:
                start, plan = drawn
                return Layout(seed, "Walk round to where you started.", (AGENT,), start[None], plan)
        raise PlanError(f"map={self.map} has no place for a loop; give another map")

    def _starts(self, rng: np.random.Generator) -> np.ndarray:
        """``(P, 3)`` poses on the floor, looking along an axis of the map."""
        low, high = self.floor_plan.bounds
        places, yaws = rng.uniform(low, high, (CANDIDATES, 2)), QUARTER * rng.integers(0, 4, CANDIDATES)
        places = np.rint(places / GRAIN) * GRAIN
        return np.column_stack([places, yaws])[self.floor_plan.inside(places)]

    def _grow(self, rng: np.random.Generator) -> tuple[np.ndarray, tuple[Subgoal, ...]] | None:
        """A start and a plan that obey the task's difficulty, or None: many paths grow at once, chunk by
        chunk, and those that run into a wall or near themselves give their place to the others."""
        starts = self._starts(rng)
        count, walks = len(starts), int(rng.integers(self.walks[0], self.walks[1] + 1))
        places, yaw, turns = starts[:, None, :2], starts[:, 2], np.zeros((count, 0), int)
        for walk in range(walks):
            turn = rng.choice([-1, 0, 1], count, p=[0.25, 0.5, 0.25]) * (walk > 0)
            yaw, heading = yaw + QUARTER * turn, np.deg2rad(yaw + QUARTER * turn)
            here = places[:, -1]
            ahead = np.column_stack([np.sin(heading), np.cos(heading)])
            there = here + self.stride * self.chunk_frames * ahead
            apart = np.linalg.norm(places - there[:, None], axis=-1).min(-1) >= MIN_APART
            free = np.flatnonzero(apart & self.floor_plan.free(here, there, CLEARANCE))
            if not len(free):
                return None
            kept = rng.choice(free, count)
            starts, yaw = starts[kept], yaw[kept]
            places = np.concatenate([places[kept], there[kept, None]], 1)
            turns = np.column_stack([turns[kept], turn[kept]])
        corners = (turns != 0).sum(1)
        words = {-1: ["left"], 0: [], 1: ["right"]}
        for k in np.flatnonzero((corners >= self.corners[0]) & (corners <= self.corners[1])):
            plan = self._plan([step for turn in turns[k].tolist() for step in (*words[turn], "forward")])
            if self.open_ways(starts[k], plan) >= self.forks:
                return starts[k], plan
        return None

    def open_ways(self, start: np.ndarray, plan: Sequence[Subgoal]) -> int:
        """How many steps of the way back walls leave open: those that follow a walk back, where to walk on or to
        turn and walk on, left or right, would be possible in more than one way."""
        out = plan[: self.explored(plan)]
        poses, back = self.path(start, out), Motion(-1, 0.0)
        after_a_walk = [pose for pose, s in zip(poses[1:-1], out[1:], strict=True) if s.kind == GO]
        return sum(int(self._free_steps(pose, back).sum() > 1) for pose in after_a_walk)

    def _free_steps(self, pose: np.ndarray, way: Motion) -> np.ndarray:
        """``(3,)`` bool: whether a walk is free at once, after a turn to the left, after one to the right."""
        turns = [Motion(0, turn) for turn in (0.0, *TURNS.values())]
        begun = np.stack([self._after(pose, turn) for turn in turns])
        return self.floor_plan.free(begun[:, :2], self._after(begun, way)[:, :2], CLEARANCE)

    def _fit(
        self, rng: np.random.Generator, plan: tuple[Subgoal, ...]
    ) -> tuple[np.ndarray, tuple[Subgoal, ...]] | None:
        """A start from which a given plan's way out is free, or None among ``CANDIDATES``."""
        starts = self._starts(rng)
        path = self.path(starts, plan[: self.explored(plan)])
        for step in range(1, len(path)):
            free = self.floor_plan.free(path[step - 1, :, :2], path[step, :, :2], CLEARANCE)
            starts, path = starts[free], path[:, free]
            if not len(starts):
                return None
        return starts[0], plan

    def _way_out(self, steps: Sequence[str]) -> tuple[Subgoal, ...]:
        return tuple(self.subgoal(TURN if s in TURNS else GO, AGENT, s) for s in steps)

    def _plan(self, steps: Sequence[str]) -> tuple[Subgoal, ...]:
        out = self._way_out(steps)
        back = len(out) + (2 if self.way_back == "turn" else 0)
        return (*out, *[self.subgoal(RETURN, AGENT)] * back)

    def _instruction(self, plan: Sequence[Subgoal]) -> str:
        parts = []
        for text, run in groupby(s.text for s in plan[: self.explored(plan)]):
            count = len(list(run))
            parts.append(text + {1: "", 2: " twice"}.get(count, f" {count} times"))
        return f"{', '.join(parts).capitalize()}, then {RETURN_CAPTION} to where you started."

    # --- plans -------------------------------------------------------------------------------

    def subgoal(self, kind: str, object: str, target: str | None = None) -> Subgoal:
        words = self.vocabulary
        if kind not in words.kinds:
            raise PlanError(f"unknown kind of subgoal {kind!r}; {self.name} has {', '.join(words.kinds)}")
        if object != AGENT:
            raise PlanError(f"unknown object {object!r}; {self.name} has {AGENT}")
        if kind == RETURN:
            if target is not None:
                raise PlanError(f"{kind!r} takes no direction, got {target!r}: the way back is not told")
            return Subgoal(RETURN_CAPTION, kind, object)
        fitting = ["forward"] if kind == GO else list(TURNS)
        if target not in fitting:
            raise PlanError(f"{kind!r} can't take {target!r}; it takes {' or '.join(fitting)}")
        return Subgoal(CAPTIONS[target], kind, object, target)

    def check_plan(self, plan: Sequence[Subgoal]) -> None:
        out = self.explored(plan)
        for i, s in enumerate(plan, 1):
            if self.subgoal(s.kind, s.object, s.target) != s:
                asked = " ".join(filter(None, (s.kind, s.object, s.target)))
                raise PlanError(f"step {i} ({s.text!r}): the caption does not belong to {asked}")
            if i > out and s.kind != RETURN:
                raise PlanError(f"step {i} ({s.text!r}): the way back has begun; it must come last")
        if not any(s.kind == GO for s in plan):
            raise PlanError(f"the plan never goes forward; {self.name} measures the way back")
        back, needed = len(plan) - out, len(self._plan([str(s.target) for s in plan[:out]])) - out
        if back != needed:
            raise PlanError(
                f"the plan has {back} steps back, but {out} steps out need {needed} (way_back={self.way_back})"
            )

    def completed(self, plan: Sequence[Subgoal]) -> tuple[Subgoal, ...]:
        """The way back takes as many steps as the way out asks for, however often it is told."""
        out, back = self.explored(plan), [s for s in plan if s.kind == RETURN]
        whole = self._plan([str(s.target) for s in plan[:out]])
        return whole if back and tuple(plan[out:]) == tuple(back) else tuple(plan)

    def plan_of(self, asked: Sequence[Subgoal]) -> list[Subgoal]:
        """A person turns round, and goes on, as often as they like; a plan goes out once, then back. Each step back
        undoes the last one that is not undone yet. Who turns round first (``way_back=turn``) and does not go the
        whole way back has begun another path."""
        out, back = list[Subgoal](), 0
        for subgoal in asked:
            if subgoal.kind == RETURN:
                back += 1
                continue
            if back:
                out = out[:-back] if self.retraces else []
            out, back = [*out, subgoal], 0
        steps = len(out) + (0 if self.retraces else 2)  # a half turn comes first
        if back and (not out or back > steps):
            raise PlanError("the path out is walked back to where it began")
        return [*out, *[asked[-1]] * back]

    def moves(self, plan: Sequence[Subgoal]) -> dict[str, str]:
        return {f"step {i}": str(s.target) for i, s in enumerate(plan[: self.explored(plan)], 1)}

    def explored(self, plan: Sequence[Subgoal]) -> int:
        return next((i for i, s in enumerate(plan) if s.kind == RETURN), len(plan))

    # --- the path ----------------------------------------------------------------------------

    def motions(self, plan: Sequence[Subgoal]) -> tuple[Motion, ...]:
        """What each chunk of a plan does when it is carried out perfectly."""
        steps = plan[: self.explored(plan)]
        out = [Motion(1, 0.0) if s.kind == GO else Motion(0, TURNS[str(s.target)]) for s in steps]
        if self.way_back == "turn":
            back = [Motion(0, QUARTER)] * 2 + [Motion(m.walk, -m.turn) for m in reversed(out)]
        else:
            back = [Motion(-m.walk, -m.turn) for m in reversed(out)]
        return (*out, *back[: len(plan) - len(out)])

    @property
    def retraces(self) -> bool:
        return self.way_back == "backward"

    def path(self, start: np.ndarray, plan: Sequence[Subgoal]) -> np.ndarray:
        """``(…, 3)`` start to the ``(1 + len(plan), …, 3)`` poses at the ends of a plan's chunks."""
        poses = [np.asarray(start, np.float64)]
        for motion in self.motions(plan):
            poses.append(self._after(poses[-1], motion))
        return np.stack(poses)

    def _after(self, pose: np.ndarray, motion: Motion) -> np.ndarray:
        """``(…, 3)`` poses, one chunk later."""
        x, y, yaw = np.moveaxis(pose, -1, 0)
        length, heading = motion.walk * self.stride * self.chunk_frames, np.deg2rad(yaw)
        return np.stack(
            [x + length * np.sin(heading), y + length * np.cos(heading), yaw + motion.turn], axis=-1
        )

    def poses(self, start: np.ndarray, plan: Sequence[Subgoal]) -> np.ndarray:
        """``(3,)`` start to the ``(1 + F·len(plan), 3)`` poses of all frames of a perfect episode."""
        return self._between(self.path(start, plan))

    def _between(self, ends: np.ndarray) -> np.ndarray:
        """``(1 + n, 3)`` poses at the ends of chunks to the ``(1 + F·n, 3)`` ones of all frames."""
        frames = np.arange(1 + self.chunk_frames * (len(ends) - 1)) / self.chunk_frames
        return np.column_stack([np.interp(frames, np.arange(len(ends)), column) for column in ends.T])

    def waypoints(self, start: np.ndarray, plan: Sequence[Subgoal]) -> np.ndarray:
        """``(W, 2)`` places, blocks, at which the chunks that walk out begin; the start comes first."""
        out = plan[: self.explored(plan)]
        return self.path(start, out)[:-1, :2][[s.kind == GO for s in out]]

    def walked(self, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The ``(1 + T, 3)`` poses that ``(T, A)`` actions lead through at walking speed on open ground:
        each turns by the camera's yaw, then walks a stride in the direction of its keys."""
        names, poses = self.action_spec.names, [np.array(start, np.float64)]
        for action in np.asarray(actions, np.float64):
            named = dict(zip(names, action.tolist(), strict=True))
            way = np.array([named["right"] - named["left"], named["forward"] - named["back"]])
            way *= self.stride / max(float(np.linalg.norm(way)), 1.0)
            yaw = poses[-1][2] + named["camera_yaw"]
            c, s = np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))
            east, north = way[0] * c + way[1] * s, way[1] * c - way[0] * s
            poses.append(np.array([poses[-1][0] + east, poses[-1][1] + north, yaw]))
        return np.stack(poses)

    def landmarks(self, starts: np.ndarray, plan: Sequence[Subgoal]) -> dict[str, np.ndarray]:
        return {str(i): place for i, place in enumerate(self.waypoints(starts[0], plan), 1)}

    def idle_track(self, layout: Layout) -> np.ndarray:
        """The way out, and then the last pose again for every frame of the way back."""
        out = self.explored(layout.plan)
        poses = self.poses(layout.start(AGENT), layout.plan[:out])
        rest = self.chunk_frames * (len(layout.plan) - out)
        return np.concatenate([poses, np.repeat(poses[-1:], rest, 0)])[:, None]

    def constant_guess_track(self, layout: Layout) -> np.ndarray:
        """Flawless hands that know the map and where they are, but not the way they came: after a walk they go
        on, or turn, wherever no wall stops the walk that follows, as often as the task's paths do."""
        plan, rng = layout.plan, np.random.default_rng([layout.seed, 20251121])
        out, way = self.explored(plan), Motion(-1 if self.retraces else 1, 0.0)
        ends = list(self.path(layout.start(AGENT), plan[:out]))
        told = [Motion(0, QUARTER)] * (0 if self.retraces else 2) + [way]
        for _ in range(len(plan) - out):
            motion = told.pop(0) if told else self._guess(ends[-1], way, rng)
            told = told or ([way] if motion.turn else [])
            ends.append(self._after(ends[-1], motion))
        return self._between(np.stack(ends))[:, None]

    def _guess(self, pose: np.ndarray, way: Motion, rng: np.random.Generator) -> Motion:
        """A step back from a pose, drawn among those after which the way is free."""
        steps = [way, *[Motion(0, turn) for turn in TURNS.values()]]
        share = np.array([0.5, 0.25, 0.25]) * self._free_steps(pose, way)
        return steps[rng.choice(3, p=share / share.sum())] if share.any() else steps[1]

    def random_chunk(self, rng: np.random.Generator) -> np.ndarray:
        """A walk forward or back, or a quarter turn left or right, each as likely."""
        key, turn = [("forward", 0.0), ("back", 0.0), ("", -QUARTER), ("", QUARTER)][rng.integers(4)]
        pressed = dict.fromkeys(self.action_spec.names, 0.0) | ({key: 1.0} if key else {})
        action = self.action_spec.to_vector(pressed | {"camera_yaw": turn / self.chunk_frames})
        return np.repeat(action[None], self.chunk_frames, 0)

    def check_path(self, layout: Layout, body: float) -> None:
        """PlanError if a body (half its width, blocks) does not fit through a layout's path out."""
        start, out = layout.start(AGENT), layout.plan[: self.explored(layout.plan)]
        if not self.floor_plan.inside(start[None, :2])[0]:
            raise PlanError(f"the start {start[:2].round(2).tolist()} blocks is outside the map {self.map}")
        ends = self.path(start, out)
        free = self.floor_plan.free(ends[:-1, :2], ends[1:, :2], body)
        for i, (fits, subgoal) in enumerate(zip(free, out, strict=True), 1):
            if not fits:
                raise PlanError(
                    f"step {i} ({subgoal.text!r}) of the path leaves the free floor of the map {self.map}; "
                    "ask the task for a layout"
                )

    # --- measuring ---------------------------------------------------------------------------

    def score(self, positions, released, names, plan) -> Score:
        """Distances in blocks from each waypoint to the path walked after the last outbound frame.

        A waypoint counts as reached if the path passes it within the tolerance in the right order.
        ``details``: ``ordered_coverage`` (share of waypoints reached), ``path_length`` of the way back
        and ``end_distance`` from its end to the start, both in blocks.
        """
        track = np.asarray(positions, np.float64)[:, list(names).index(AGENT)]
        last = self.chunk_frames * self.explored(plan)
        if len(track) <= last:
            raise ValueError(f"a track of {len(track)} frames; the way out alone takes {last + 1}")
        back, waypoints = track[last:, :2], self.waypoints(track[0], plan)
        fine = densify(back)
        gaps = np.linalg.norm(waypoints[:, None] - fine, axis=-1)
        passed = passed_in_order(gaps[::-1] <= self.tolerance)[::-1]
        words = [f"waypoint {i}" for i in range(1, len(waypoints) + 1)]
        left = np.linalg.norm(waypoints - back[0], axis=-1) > self.tolerance
        details = {
            "ordered_coverage": float(np.mean(passed)),
            "path_length": float(np.linalg.norm(np.diff(back, axis=0), axis=-1).sum()),
            "end_distance": float(np.linalg.norm(back[-1] - waypoints[0])),
        }
        return Score(
            dict(zip(words, gaps.min(-1).tolist(), strict=True)),
            dict(zip(words, passed, strict=True)),
            dict(zip(words, left.tolist(), strict=True)),
            details,
        )


def _bounds(key: str, given: Sequence[int], least: int) -> tuple[int, int]:
    """An option that says fewest and most; ValueError for anything else."""
    bounds = tuple(given)
    if len(bounds) != 2 or any(type(n) is not int for n in bounds) or not least <= bounds[0] <= bounds[1]:
        raise ValueError(
            f"{key}={list(bounds)}: expected the fewest and the most, [{max(least, 1)}, 5] or such"
        )
    return bounds[0], bounds[1]


def densify(track: np.ndarray, step: float = 0.05) -> np.ndarray:
    """``(T, 2)`` to points on the same line, at most ``step`` apart."""
    pieces = [track[:1]]
    for a, b in pairwise(track):
        count = max(1, int(np.ceil(np.linalg.norm(b - a) / step)))
        pieces.append(a + (b - a) * np.arange(1, count + 1)[:, None] / count)
    return np.concatenate(pieces)


def passed_in_order(near: np.ndarray) -> list[bool]:
    """``(W, T)`` bool, whether each waypoint is near at each time, to the W waypoints of the longest run that
    a single pass through time meets in order."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]  # by how many were met: when at the earliest, which
    for w, times in enumerate(near):
        for count in range(len(best) - 1, -1, -1):
            since, met = best[count]
            later = np.flatnonzero(times[since:])
            if not len(later):
                continue
            found = (since + int(later[0]), (*met, w))
            if count + 1 == len(best):
                best.append(found)
            elif found[0] < best[count + 1][0]:
                best[count + 1] = found
    longest = best[-1][1]
    return [w in longest for w in range(len(near))]
