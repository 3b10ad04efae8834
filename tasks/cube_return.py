"""``cube_return``: move cubes away, then put them back where they stood (paper, Section 4.2).

Left, right, front and back are the viewer's: the camera faces the robot, so that the picture's right
is +y of the robot's base frame and its front is +x. Lengths are metres in that frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from tasks.actions import ActionSpec, end_effector_pose
from tasks.episode import Episode
from tasks.task import Layout, PlanError, Score, Subgoal, Task, Vocabulary

PLACES: dict[str, tuple[float, float]] = {
    "left": (0.54, -0.15),
    "right": (0.54, 0.15),
    "front": (0.65, 0.0),
    "back": (0.43, 0.0),
}
PLACE_WORDS = {"left": "on the left", "right": "on the right", "front": "at the front", "back": "at the back"}
INSTRUCTION_WORDS = {
    "left": "to the left",
    "right": "to the right",
    "front": "to the front",
    "back": "to the back",
}

ZONE_LOW, ZONE_HIGH = np.array([0.39, -0.20]), np.array([0.69, 0.20])
CUBE_HALF = 0.025
MIN_OUTWARD = 0.12
MIN_GAP = 0.10
DISPLACED = 0.05
SETTLED = 0.01  # m: a cube this near the height of one that stands, or that moved no farther, is at rest


@dataclass(frozen=True)
class CubeReturn(Task):
    """Cubes of different colours on a table; some are moved to named places and then returned.

    Layouts of even seeds move one cube and return it; those of odd seeds move two, then return both
    (one, if the task has a single cube). Starts are uniform over the 0.30 × 0.40 m zone, given that
    cubes stand ≥ 10 cm apart and that every asked place is free and ≥ 12 cm from the cube's start.
    """

    cubes: tuple[str, ...] = ("red", "blue")
    name: str = "cube_return"
    instruction: str = "Move the red cube to the right, then return it to where it was."
    unit: str = "m"
    tolerance: float = 0.02
    chunk_frames: int = 4
    train_seeds: range = range(0, 1_000_000)
    heldout_seeds: range = range(1_000_000, 2_000_000)
    measured: ClassVar[str] = (
        "Distance: between where a thing started and where it ended, mean over what the plan returns. A thing "
        "that never left its place, or is lost, is a failure and counts with the distance it was told to go."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "cubes", tuple(self.cubes))
        unknown = set(self.cubes) - {"red", "green", "blue"}
        if unknown or not 1 <= len(self.cubes) <= 3 or len(set(self.cubes)) != len(self.cubes):
            raise ValueError(f"cubes must be one to three of red, green, blue; got {list(self.cubes)}")

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(("pick", "put", "return"), tuple(f"{c} cube" for c in self.cubes), tuple(PLACES))

    @property
    def action_spec(self) -> ActionSpec:
        return end_effector_pose(low=(0.25, -0.35, 0.015), high=(0.80, 0.35, 0.45))

    @property
    def places(self) -> dict[str, np.ndarray]:
        return {target: self.place(target) for target in PLACES}

    def place(self, target: str) -> np.ndarray:
        """``(3,)`` centre of a cube that stands at a named place."""
        return np.array([*PLACES[target], CUBE_HALF])

    # --- layouts -----------------------------------------------------------------------------

    def layout(self, seed: int, moves: Mapping[str, str] | None = None) -> Layout:
        names = self.vocabulary.objects
        if moves:
            self.check_plan(self._plan(moves))
        rng = np.random.default_rng([seed, 20241030])
        count = 1 if seed % 2 == 0 else min(2, len(names))
        for _ in range(100_000):
            starts = rng.uniform(ZONE_LOW, ZONE_HIGH, (len(names), 2))
            if any(np.linalg.norm(a - b) < MIN_GAP for a, b in combinations(starts, 2)):
                continue
            asked = dict(moves) if moves else self._draw_moves(rng, names, starts, count)
            if asked and self._free(names, starts, asked):
                xyz = np.column_stack([starts, np.full(len(names), CUBE_HALF)])
                plan = self._plan(asked)
                return Layout(seed, self._instruction(asked), names, xyz, plan)
        raise PlanError(f"no layout in which {dict(moves or {})} can be asked: its places are too close")

    def _draw_moves(self, rng, names, starts, count) -> dict[str, str] | None:
        chosen = [names[i] for i in rng.permutation(len(names))[:count]]
        options = [t for t in rng.permutation(list(PLACES))]
        moves: dict[str, str] = {}
        for cube in chosen:
            for target in options:
                trial = {**moves, cube: str(target)}
                if target not in moves.values() and self._free(names, starts, trial):
                    moves = trial
                    break
            else:
                return None
        return moves

    def _free(self, names, starts, moves: Mapping[str, str]) -> bool:
        """Whether every asked place is far from its cube's start and free of the other cubes."""
        for cube, target in moves.items():
            distance = np.linalg.norm(starts - PLACES[target], axis=1)
            for name, d in zip(names, distance, strict=True):
                if d < (MIN_OUTWARD if name == cube else MIN_GAP):
                    return False
        return True

    def _plan(self, moves: Mapping[str, str]) -> tuple[Subgoal, ...]:
        out = [s for c, t in moves.items() for s in (self.subgoal("pick", c), self.subgoal("put", c, t))]
        back = [s for c in moves for s in (self.subgoal("pick", c), self.subgoal("return", c))]
        return tuple(out + back)

    def _instruction(self, moves: Mapping[str, str]) -> str:
        parts = [f"the {c} {INSTRUCTION_WORDS[t]}" for c, t in moves.items()]
        end = "return it to where it was" if len(parts) == 1 else "return both to where they were"
        return f"Move {' and '.join(parts)}, then {end}."

    # --- plans -------------------------------------------------------------------------------

    def subgoal(self, kind: str, object: str, target: str | None = None) -> Subgoal:
        words = self.vocabulary
        if kind not in words.kinds:
            raise PlanError(f"unknown kind of subgoal {kind!r}; {self.name} has {', '.join(words.kinds)}")
        if object not in words.objects:
            raise PlanError(f"unknown object {object!r}; {self.name} has {', '.join(words.objects)}")
        if kind == "put":
            if target not in words.targets:
                raise PlanError(f"unknown place {target!r}; {self.name} has {', '.join(words.targets)}")
            return Subgoal(f"put the {object} {PLACE_WORDS[target]}", kind, object, target)
        if target is not None:
            raise PlanError(f"{kind!r} takes no place, got {target!r}")
        text = f"pick up the {object}" if kind == "pick" else f"return the {object} to where it was"
        return Subgoal(text, kind, object)

    def check_plan(self, plan: Sequence[Subgoal]) -> None:
        held: str | None = None
        at: dict[str, str] = {}
        returned: set[str] = set()
        for i, s in enumerate(plan, 1):
            where = f"step {i} ({s.text!r})"
            if self.subgoal(s.kind, s.object, s.target) != s:
                asked = " ".join(filter(None, (s.kind, s.object, s.target)))
                raise PlanError(f"{where}: the caption does not belong to {asked}")
            if s.kind == "pick":
                if held:
                    raise PlanError(f"{where}: the gripper still holds the {held}")
                held = s.object
                continue
            if held != s.object:
                raise PlanError(f"{where}: the {s.object} is not in the gripper; pick it up first")
            if s.target:
                taken = [o for o, place in at.items() if place == s.target and o != s.object]
                if taken:
                    raise PlanError(f"{where}: the {taken[0]} already stands {PLACE_WORDS[s.target]}")
                at[s.object] = s.target
            elif s.object not in at:
                raise PlanError(f"{where}: the {s.object} was never moved, so it can't be returned")
            else:
                del at[s.object]
                returned.add(s.object)
            held = None
        if held:
            raise PlanError(f"the plan ends with the {held} in the gripper")
        for cube in returned & set(at):
            raise PlanError(f"the {cube} is returned and then moved again; return it last")
        if not returned:
            raise PlanError("the plan returns no cube; cube_return measures the way back")

    def moves(self, plan: Sequence[Subgoal]) -> dict[str, str]:
        return {s.object: s.target for s in plan if s.kind == "put" and s.target}

    def constant_guess_track(self, layout: Layout) -> np.ndarray:
        """Every cube goes out, and back to the middle of the zone."""
        out, back = layout.starts.copy(), layout.starts.copy()
        for cube, target in self.moves(layout.plan).items():
            out[layout.names.index(cube)] = self.place(target)
            back[layout.names.index(cube)] = [*(ZONE_LOW + ZONE_HIGH) / 2, CUBE_HALF]
        return np.stack([layout.starts, out, back])

    # --- measuring ---------------------------------------------------------------------------

    def released(self, episode: Episode) -> np.ndarray:
        """A thing stands free if it is at a standing cube's height and the gripper is away from it, or
        open around it while it stays where it was in the frame before.

        An episode records what the gripper was told, not how wide it is: a bit counts once its action was
        carried out, that is once the tip went anywhere or is where it was sent.
        """
        gripper = episode.position("gripper")
        opened = [True]
        for before, tip, action in zip(gripper, gripper[1:], episode.actions, strict=False):
            refused = np.linalg.norm(tip - before) < 1e-6 and np.linalg.norm(tip - action[:3]) > SETTLED
            opened.append(opened[-1] if refused else bool(action[-1] > 0.5))
        moved = np.linalg.norm(np.diff(episode.positions, axis=0, prepend=episode.positions[:1]), axis=-1)
        away = np.linalg.norm(episode.positions - gripper[:, None], axis=-1) > 2 * CUBE_HALF
        on_table = np.abs(episode.positions[..., 2] - CUBE_HALF) < SETTLED
        return on_table & (away | (np.array(opened)[:, None] & (moved < SETTLED)))

    def score(self, positions, released, names, plan) -> Score:
        """As :meth:`Task.score`. ``details`` where several cubes are returned: ``at_another_start``, the share
        of them that end where another of them stood, within ``DISPLACED``: the place is known, its cube is not.
        """
        distances, reached, displaced, told = {}, {}, {}, self.moves(plan)
        for cube in dict.fromkeys(s.object for s in plan if s.kind == "return"):
            track, free = positions[:, list(names).index(cube)], released[:, list(names).index(cube)]
            away = np.linalg.norm(track - track[0], axis=-1)
            displaced[cube] = bool(((away >= DISPLACED) & free).any())
            outward = float(np.linalg.norm(self.place(told[cube])[:2] - track[0, :2]))
            distances[cube] = float(away[-1]) if displaced[cube] else max(outward, float(away[-1]))
            reached[cube] = bool(displaced[cube] and away[-1] <= self.tolerance and free[-1])
        returned = [list(names).index(cube) for cube in distances]
        if len(returned) < 2:
            return Score(distances, reached, displaced)
        apart = np.linalg.norm(positions[-1, returned, None] - positions[0, returned], axis=-1)
        elsewhere = (apart < DISPLACED) & ~np.eye(len(returned), dtype=bool)  # [ends, started]
        return Score(distances, reached, displaced, {"at_another_start": float(elsewhere.any(1).mean())})
