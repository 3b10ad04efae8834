"""The page on a task that is walked: real rooms, real options, random weights as the trainers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the page needs the extra `play`")
pytest.importorskip("vizdoom", reason="the rooms are ViZDoom's")

from play_room import navigation
from starlette.testclient import TestClient
from test_play import HERE, one, opened

from envs.expert import expert_actions
from planner import evaluate
from planner.play.runs import all_runs
from planner.play.server import Play, application
from planner.play.studio import SHIPPED, Studio
from tasks import PlanError, Subgoal
from tasks.commands import CommandError, compose
from tasks.path_retrace import AGENT, PathRetrace

FORWARD, LEFT, BACK = "go forward", "turn left", "go back along the path"
START = {"task": "path_retrace", "memory": "temp_lora", "source": "seed", "seed": 0}


def asked(task: PathRetrace, words: str) -> list[Subgoal]:
    kinds = {"f": ("go", "forward"), "l": ("turn", "left"), "r": ("turn", "right"), "b": ("return", None)}
    return [task.subgoal(kinds[w][0], AGENT, kinds[w][1]) for w in words]


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("f", "f"),
        ("fl", "fl"),
        ("flb", "flb"),
        ("fbf", "f"),
        ("flbfb", "ffb"),
        ("flbbrb", "rb"),
        ("fblfbb", "lfbb"),
    ],
)
def test_a_person_turns_round_as_often_as_they_like(words, same):
    """Whatever came before, the expert does what it does in a plan that goes out once and back."""
    task = PathRetrace()
    plan = task.plan_of(asked(task, words))
    assert plan == asked(task, same)
    assert expert_actions(task, {}, plan[-1], {}, plan, len(plan) - 1).shape == (
        task.chunk_frames,
        len(task.action_spec),
    )


@pytest.mark.parametrize("words", ["b", "fbb", "lbfbb", "fbbfbb"])
def test_nobody_goes_back_further_than_the_start(words):
    task = PathRetrace()
    with pytest.raises(PlanError, match="walked back to where it began"):
        task.plan_of(asked(task, words))


def test_who_turns_round_first_takes_two_steps_more():
    task = PathRetrace(way_back="turn")
    assert task.plan_of(asked(task, "flbb")) == asked(task, "flbb")
    assert task.plan_of(asked(task, "flbbbb")) == asked(task, "flbbbb")
    assert task.plan_of(asked(task, "flbblb")) == asked(task, "lb")
    with pytest.raises(PlanError):
        task.plan_of(asked(task, "flbbbbb"))


def client_of(options: list[str]) -> TestClient:
    return TestClient(application(Play(Studio(compose("play", options))), "127.0.0.1"), headers=HERE)


def test_a_walk_is_imagined_and_executed(tmp_path: Path):
    options = [*navigation(tmp_path / "weights"), f"runs={tmp_path / 'runs'}"]
    with client_of(options) as client, opened(client) as page:
        told = one(page.ask("start", **START, simulator="expert", compare=True), "episode")
        assert told["unit"] == "blocks" and told["unmeasured"] == ""
        keys = {key: action["text"] for action in told["actions"] for key in action["keys"]}
        assert {keys[k] for k in ("w", "ArrowUp")} == {FORWARD} and keys["s"] == keys["ArrowDown"] == BACK
        walked = [page.act(text) for text in (keys["a"], keys["w"], keys["ArrowDown"], keys["w"])]
        for chunk in walked:
            assert [len(chunk["frames"][side]) for side in ("with", "without", "executed")] == [4, 4, 4]
            assert chunk["distance"] >= 0 and chunk["effect"] > 0
        name = one(page.ask("save"), "saved")["name"]
        after = page.act(BACK)
        assert one(page.ask("open", name=name), "episode")["chunks"] == walked
        again = page.act(BACK)
        assert again["frames"] == after["frames"] and again["distance"] == after["distance"]
        page.ask("undo", chunk=0)
        assert "not executed: the path out is walked back" in page.act(BACK)["note"]
        one(page.ask("start", **START, simulator="reader"), "episode")
        assert len(page.act("wander about")["frames"]["executed"]) == 4


def test_a_table_is_listed_as_finished_once_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = tmp_path / "runs"
    given = [g for g in navigation(tmp_path / "weights") if not g.startswith("memory.")]
    given += ["rows=[do_nothing]", "episodes=2", "chunks=1", f"run_dir={runs}/evaluate/walk"]
    given += [f"results={tmp_path}/results", f"page={tmp_path}/page.md"]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("planner.results.write_results", interrupted)
        evaluate.run(compose("evaluate", given))
    (half,) = all_runs(runs)
    assert not half["finished"] and len(half["rows"]) == 1
    evaluate.run(compose("evaluate", given))
    (whole,) = all_runs(runs)
    assert whole["finished"] and whole["rows"] == half["rows"] and whole["unit"] == "blocks"
    table = (tmp_path / "results/planning_path_retrace.json").read_text()
    assert (runs / "evaluate/walk/result.json").read_text() == table


def test_without_an_inverse_dynamics_model_the_expert_walks_unmeasured(tmp_path: Path):
    options = [*navigation(tmp_path / "weights", reads=False), f"runs={tmp_path / 'runs'}"]
    with client_of(options) as client, opened(client) as page:
        told = one(page.ask("start", **START, simulator="expert"), "episode")
        assert told["unmeasured"].startswith("Not measured: inverse_dynamics weights: ")
        chunk = page.act(FORWARD)
        assert chunk["distance"] is None and len(chunk["frames"]["executed"]) == 4
        assert one(page.ask("start", **START, simulator=None), "episode")["unmeasured"] == ""
        error = one(page.ask("start", **START, simulator="reader"), "error")["text"]
        assert "inverse_dynamics" in error and error.endswith(".")


def test_cubes_need_no_inverse_dynamics_model_for_the_expert(tmp_path: Path):
    studio = Studio(compose("play", [f"inverse_dynamics={tmp_path / 'none'}", "memory=none"]))
    stage = studio.stage("cube_return", "none", SHIPPED)
    simulation = studio.simulation(stage, "expert")
    assert simulation.locator is not None and simulation.unmeasured == "" and simulation.unit == "mm"
    simulation.close()
    with pytest.raises(CommandError, match="is missing"):
        studio.simulation(stage, "reader")
