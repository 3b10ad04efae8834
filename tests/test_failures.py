"""Where things fail on their way back: each end, in the simulator, with what the expert's camera saw as imagined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from envs.tabletop import TabletopEnv
from planner.decomposer.scripted import ScriptedDecomposer
from planner.expert_episode import expert_episode
from planner.failures import ENDS, failures, failures_table
from planner.locate import CubeLocator
from planner.loop import PlanResult, _result, begin, execute
from tasks.cube_return import CubeReturn

TASK, SEED = CubeReturn(), 1_000_000
AWAY = np.array([0.0, 0.06, 0.0, 0, 0, 0, 0, 0], np.float32)  # m, of an action


@pytest.fixture(scope="module")
def env() -> Iterator[TabletopEnv]:
    env = TabletopEnv()
    yield env
    env.close()


def acted(env: TabletopEnv, actions: np.ndarray, imagined: np.ndarray | None = None) -> PlanResult:
    """The episode of SEED under some actions; None imagines what was done."""
    running = begin(env, SEED, ScriptedDecomposer(), None)
    execute(running, actions)
    running.imagined = list(running.executed if imagined is None else imagined)
    return _result(running, CubeLocator(env.camera, TASK.vocabulary.objects))


def test_each_end_is_told_from_the_others(env):
    expert = expert_episode(env, TASK.layout(SEED))
    told, seen = expert.actions, expert.frames
    astray, idle = told.copy(), np.tile(told[-1], (len(told), 1))
    astray[-4:] += AWAY
    elsewhere = expert_episode(env, TASK.layout(SEED + 2)).frames
    results = {
        "returned": acted(env, told, seen),
        "not_grasped": acted(env, idle, seen),
        "imagined_elsewhere": acted(env, idle, elsewhere),
        "put_elsewhere": acted(env, astray, seen),
        "place_unknown": acted(env, astray),
    }
    assert set(results) == set(ENDS)
    for end, result in results.items():
        assert failures(TASK, [result]) == {name: int(name == end) for name in ENDS}, end
    assert failures(TASK, list(results.values())) == dict.fromkeys(ENDS, 1)
    blind = np.full_like(seen, 128)
    assert failures(TASK, [acted(env, idle, blind)])["imagined_elsewhere"] == 1


def test_what_is_not_located_or_never_picked_up_is_in_no_table(env):
    result = acted(env, expert_episode(env, TASK.layout(SEED)).actions)
    assert failures(TASK, [replace(result, located=None)]) == {}
    assert failures(TASK, []) == {}
    unpicked = tuple(s for s in result.plan if s.kind != "pick")
    assert failures(TASK, [replace(result, plan=unpicked)]) == {}
    rows = {"full": {"failures": failures(TASK, [result])}, "no_memory": {"failures": {}}, "do_nothing": {}}
    table = failures_table({"rows": rows})
    assert "slow-fast loop** | 1 | 0 | 0 | 0 | 0 |" in table and "no memory" not in table
    assert failures_table({"rows": {"do_nothing": {}}}) == ""
