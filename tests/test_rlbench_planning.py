"""planner.run on RLBench's own tasks: its words are the captions, its success is the score.

The simulator is a stand-in (tests/fakes) in a real worker process.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_model, make_text

from envs.base import EpisodeLostError
from envs.rlbench_env import DEMONSTRATIONS, RLBenchEnv
from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
from planner.baselines import rows_of, true_frames
from planner.decomposer.scripted import ScriptedDecomposer
from planner.evaluate import run as evaluate
from planner.expert_episode import expert_episode, expert_episodes
from planner.loop import PlanResult, run_episodes
from planner.parts import Parts
from planner.records import left_out, load_result, save_result, summary_row
from planner.run import episode_line, last_words, publish, run
from tasks.commands import CommandError, RunDir, compose
from tasks.files import read_json
from tasks.process import Stages
from tasks.rlbench_task import RLBenchTask
from tasks.task import SEEDS_APART

FAKES = Path(__file__).with_name("fakes")
TASK = RLBenchTask(variation=1)
SPEC = TASK.action_spec
SOLVED, MISSED = 1_000_000, 1_000_000 + SEEDS_APART


@pytest.fixture(scope="module", autouse=True)
def stand_ins():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FAKES))
        patch.setenv("FAKE_SIMULATOR", json.dumps({}))
        yield


@pytest.fixture(scope="module")
def env(stand_ins):
    made = RLBenchEnv(TASK, display="inherit", image_size=16)
    yield made
    made.close()


def reader_of(action: np.ndarray) -> InverseDynamics:
    """A real model whose last layer is set so that it reads one and the same action off any frames."""
    config = InverseDynamicsConfig(SPEC, (16, 16), channels=(8, 8, 8), keypoints=4, hidden=16)
    model = InverseDynamics(config).eval().requires_grad_(False)
    told = torch.from_numpy(np.asarray(action, np.float32))
    raw = (told - model.middle) / model.reach
    for kind, value in (("quaternion", told), ("binary", 10 * told - 5)):
        raw[SPEC.indices(kind)] = value[SPEC.indices(kind)]
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.zero_()
    last.bias.copy_(raw)
    return model


@pytest.fixture(scope="module")
def goal(env) -> np.ndarray:
    env.reset(seed=SOLVED)
    shown = env.demonstration()
    assert shown is not None
    return shown[-1]


@pytest.fixture(scope="module")
def parts(env, goal) -> Parts:
    small = {"chunk_frames": 4, "context_frames": 8, "sampling_steps": 1, "guidance": (1.0, 1.0)}
    model = make_model(make_text(), **small)
    header = {"task": f"{TASK.name} ({TASK.unit})", "imagined share": "not measured"}
    return Parts(TASK, [env], ScriptedDecomposer(), model, reader_of(goal), None, header)


def episode(parts: Parts, seed: int, instruction: str | None = None) -> PlanResult:
    [result] = run_episodes(
        parts.envs, [seed], parts.decomposer, parts.world_model, parts.inverse_dynamics, parts.locator,
        instruction=instruction,
    )  # fmt: skip
    return result


@pytest.fixture(scope="module")
def results(parts) -> list[PlanResult]:
    """The target stands elsewhere in the second layout."""
    return [episode(parts, seed) for seed in (SOLVED, MISSED)]


def test_rlbenchs_words_are_the_captions_and_its_success_the_score(results, goal):
    solved, missed = results
    assert solved.score.success and not missed.score.success
    assert (solved.score.distance, missed.score.distance) == (0.0, 1.0) and solved.errors == ()
    for result in results:
        assert {s.text for s in result.plan} == {"reach the blue target"} and len(result.plan) == 4
        assert [s.caption for s in result.executed.segments] == ["reach the blue target"] * 4
        assert result.layout.instruction == "reach the blue target" and "taken as told" in result.notes[0]
        assert len(result.executed) == len(result.imagined) == 17
        assert (result.located, result.imagined_score) == (None, None)
    done = solved.executed
    np.testing.assert_allclose(done.position("gripper")[1:], np.tile(goal[:3], (16, 1)), atol=1e-3)
    assert (done.frames[1:] == done.frames[1]).all(), "no step follows success"


def test_an_instruction_is_the_caption_and_the_simulators_own_is_said(parts):
    result = episode(parts, SOLVED, "touch  the blue ball")
    assert {s.text for s in result.plan} == {"touch the blue ball"} and result.score.success
    assert result.notes[1] == "the simulator asks for 'reach the blue target', and success is that"


def test_what_is_not_measured_is_null_and_left_unsaid(parts, results, tmp_path):
    folder = tmp_path / "episodes"
    for result in results:
        save_result(folder, result)
        kept = load_result(folder, result.layout.seed)
        assert kept is not None and summary_row(kept) == summary_row(result)
        assert kept.located is None and "located" not in np.load(folder / f"{result.layout.seed}.npz")
    line = episode_line(results[1], TASK)
    assert line == f"seed {MISSED}: missed: reach target 1.000 unsolved"
    cfg = compose("run", ["task=rlbench", f"run_dir={tmp_path / 'run'}"])
    run_dir = RunDir.open("run", cfg)
    written = publish(run_dir, parts, cfg, results, Stages(), ran=2)
    total, rows = written["summary"], read_json(run_dir / "result.json")["episodes"]
    assert total["imagined"] is total["displaced"] is total["by_chunks"]["4"]["imagined"] is None
    assert total["executed"]["mean"] == 0.5 and total["success"]["share"] == 0.5
    assert [r["imagined_distance"] for r in rows] == [None, None] and rows[0]["imagined_lost"] == {}
    said = last_words(written, TASK, run_dir).splitlines()
    assert said[0].startswith("share  executed 0.500 unsolved [") and "imagined" not in "".join(said[:2])
    assert said[1].startswith("success 50% [")
    page = (run_dir / "report.html").read_text()
    for words in ("1 of 2 episodes succeeded, a share of 0.50 unsolved", "Executed share", "RLBench calls it solved",
                  "<b>imagined</b> is not measured", "reach target: 1.00 unsolved."):  # fmt: skip
        assert words in page, words
    assert "Displaced" not in page and "Imagined share" not in page and "distance" not in page
    assert not list((run_dir / "media").glob("*_paths.png")), "the solved flag is no place to draw"


# --- the commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(parts, tmp_path_factory) -> list[str]:
    """Options of both commands."""
    folder = tmp_path_factory.mktemp("weights")
    parts.world_model.save_pretrained(folder / "model")
    parts.inverse_dynamics.save_pretrained(folder / "reader")
    return ["task=rlbench", "task.variation=1", "env.display=inherit", "env.image_size=16", "device=cpu",
            f"weights={folder}/model", f"inverse_dynamics={folder}/reader"]  # fmt: skip


def test_the_command_runs_it_and_says_what_is_not_measured(command, tmp_path, capsys):
    options = [*command, f"run_dir={tmp_path}/run", "memory=oracle", "episodes=1", "media=0"]
    run(compose("run", options))
    first = capsys.readouterr().out
    assert "imagined share  not measured: nothing in configs/locator reads this task's frames" in first
    assert "decomposer  taken as told" in first and f"seed {SOLVED}: success: reach target 0.000" in first
    run(compose("run", options))
    again = capsys.readouterr().out
    assert "finished already" in again and again.splitlines()[-4:] == first.splitlines()[-4:]


def test_a_lost_seed_is_left_out_and_the_others_go_on(command, tmp_path, monkeypatch, capsys):
    """The reader knows one layout's target alone; in the other the arm goes on, and the simulator dies of it."""
    monkeypatch.setenv("FAKE_SIMULATOR", json.dumps({"abort_at_step": 3}))
    options = [*command, "memory=none", "media=0", "episodes=2", "batch_size=2", f"run_dir={tmp_path}/run"]
    run(compose("run", options))
    first = capsys.readouterr().out
    assert (
        f"left out  1 of 2 episodes, which are in no figure: seed {SOLVED + 1}: SimulatorLostError" in first
    )
    assert "share  executed 0.000 unsolved" in first and "n=1" in first
    assert SOLVED + 1 in left_out(tmp_path / "run/episodes", [SOLVED, SOLVED + 1])
    written = read_json(tmp_path / "run/result.json")
    assert list(written["left_out"]) == [str(SOLVED + 1)] and written["cost"]["episodes"] == 1
    assert "1 of 2 episodes, which are in no figure" in (tmp_path / "run/report.html").read_text()
    (tmp_path / "run/result.json").unlink()
    monkeypatch.setenv("FAKE_SIMULATOR", "{}")
    run(compose("run", options))
    assert "left out  1 of 2 episodes" in capsys.readouterr().out, "it is not tried again by itself"
    monkeypatch.setenv("FAKE_SIMULATOR", json.dumps({"abort_at_step": 1}))
    with pytest.raises(
        CommandError, match=r"no episode of 1 is left to score; the last: SimulatorLost.*left_out"
    ):
        run(compose("run", [*options, "episodes=1", f"run_dir={tmp_path}/none"]))


def test_an_expert_that_fails_loses_the_episode_only(parts, monkeypatch):
    monkeypatch.setenv("FAKE_SIMULATOR", json.dumps({"no_demo": 2 * DEMONSTRATIONS}))
    env = RLBenchEnv(TASK, display="inherit", image_size=16)
    layout = TASK.layout(SOLVED)
    try:
        rows, lost = rows_of(
            lambda x: true_frames(env, x, expert_episode(env, x), parts.inverse_dynamics), [layout]
        )
        assert rows == [] and "Could not collect demos" in lost[SOLVED]
        with pytest.raises(
            EpisodeLostError, match="none of 1 episodes of the expert is left: the expert failed"
        ):
            expert_episodes(env, [layout], "true videos")
    finally:
        env.close()


def test_the_table_is_measured_without_a_locator(command, tmp_path):
    rows = "rows=[do_nothing,constant_guess,true_frames,no_memory]"
    where = [f"run_dir={tmp_path}/table", f"results={tmp_path}", f"page={tmp_path}/page.md"]
    evaluate(compose("evaluate", [*command, *where, rows, "episodes=1", "chunks=4", "batch_size=1"]))
    table = read_json(tmp_path / "planning_reach_target.json")
    assert set(table["rows"]) == {"do_nothing", "true_frames", "no_memory"} and table["figure"] == "share"
    assert [table["rows"][n]["success"]["share"] for n in ("do_nothing", "true_frames", "no_memory")] == [
        0,
        1,
        1,
    ]
    assert "locate" not in table["instruments"]
    after = table["instruments"]["next_chunk"]
    assert set(after["imagined"]) == {"psnr", "chunks"} and 30 < after["copied"]["psnr"] < 140
    page = (tmp_path / "page.md").read_text()
    assert "| row | executed share, unsolved |" in page and "Left out of a row" not in page
    assert "| no memory, base | 0.000 [–] | – | – | 100%" in page
