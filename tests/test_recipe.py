"""Recipes: every stage's options exist, each stage takes what an earlier one made, a stop is one clear line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import invoke
import pytest

from planner.recipe import Stage, commands
from tasks.commands import CommandError, compose

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(p.stem for p in (ROOT / "configs" / "recipe").glob("*.yaml"))
TASKS = sorted(p.stem for p in (ROOT / "configs" / "task").glob("*.yaml"))


def options_of(module: str) -> str:
    """The name of the yaml that a module's options stand in, as its source says."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
    return re.findall(r'main\("(\w+)"', text)[-1]


def lines(task: str, **given: object) -> list[list[str]]:
    return commands(compose("recipe", [f"task={task}", *(f"{k}={v}" for k, v in given.items())]))


def test_every_recipe_belongs_to_a_task():
    assert {"cube_return", "path_retrace", "path_retrace_turn"} <= set(RECIPES) <= set(TASKS)


@pytest.mark.parametrize("task", RECIPES)
@pytest.mark.parametrize("trial", ["false", "true"])
def test_every_option_of_a_recipe_exists(task, trial):
    for _, module, *options in lines(task, trial=trial):
        assert compose(options_of(module), options).task.name == task, module


@pytest.mark.parametrize("task", RECIPES)
def test_a_stage_takes_what_earlier_ones_make(task):
    made: set[str] = set()
    for _, _module, *options in lines(task, runs="R", data="D", weights="W"):
        named = dict(option.split("=", 1) for option in options)
        target = next((named[k] for k in ("run_dir", "path") if k in named), "")
        for key, value in named.items():
            if key not in ("run_dir", "path", "results", "page"):
                for place in re.findall(r"\b[RDW]/[\w/-]+", value):
                    assert any(place == m or place.startswith(f"{m}/") for m in made), (key, place)
        made.add(target)
    assert f"W/{task}" in made


def test_what_is_shipped_is_what_the_last_stages_trained():
    given = {m: dict(o.split("=", 1) for o in options) for _, m, *options in lines("cube_return", runs="R")}
    shipped = given["planner.ship"]
    assert shipped["world_model"] == "R/pretrain/cube_return-longer"
    assert shipped["slowfast_loop.temp_lora"] == given["world_model.slowfast_loop"]["run_dir"]
    assert shipped["inverse_dynamics"] == given["inverse_dynamics.train"]["run_dir"]
    assert compose("ship").path == shipped["path"] == "weights/cube_return"


def test_a_trial_writes_to_a_place_of_its_own():
    for _, _module, *options in lines(
        "path_retrace", trial="true", runs="R", data="elsewhere/D", weights="W"
    ):
        places = [o for o in options if re.search(r"(^|[=\[,])(R|D|W|elsewhere)/", o)]
        assert places and all("R/trial/" in p for p in places)


def test_a_recipe_started_elsewhere_ships_to_and_reads_from_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, place in (({}, ROOT), ({"trial": "true"}, tmp_path / "runs/trial")):
        given = [o for line in lines("path_retrace", **options) for o in line if "weights/path_retrace" in o]
        assert given and all(f"={place}/weights/path_retrace" in o for o in given)


def test_processes_share_what_can_be_shared():
    for line in lines("path_retrace", processes=2):
        shared = {"world_model.pretrain", "world_model.slowfast_loop"} & set(line)
        assert ("--nproc-per-node=2" in line) == bool(shared)


def test_a_task_without_a_recipe_and_a_place_that_is_none():
    with pytest.raises(
        CommandError, match="task=reach_target has no recipe; write configs/recipe/reach_target"
    ):
        lines("rlbench")
    with pytest.raises(CommandError, match=r"envs.collect names the place 'moon'; have runs, task"):
        Stage("envs.collect", ("path={moon}/x",), ()).command({"runs": "R", "task": "t"}, 1, False)


def command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planner.recipe", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_a_stage_that_fails_is_named_and_nothing_follows(tmp_path):
    (tmp_path / "trial/data").mkdir(parents=True)
    (tmp_path / "trial/data/path_retrace").write_text("not a dataset")
    done = command("task=path_retrace", "trial=true", f"runs={tmp_path}")
    assert done.returncode == 1 and done.stdout.count(" -m ") == 1
    assert "stage 1 of 10 ended with exit code 1" in done.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("task", ["cube_return", "path_retrace"])
def test_a_recipe_runs_from_nothing_to_weights_and_a_table(tmp_path, task, monkeypatch):
    """Its stages run in this process, as each imports torch and diffusers anew in one of its own."""
    outside = subprocess.run

    def inside(line: list[str], **kwargs: object) -> object:
        if line[:2] == [sys.executable, "-m"]:
            return invoke.command(*line[2:], check=False)
        return outside(line, **kwargs)

    monkeypatch.setattr(subprocess, "run", inside)
    invoke.command("planner.recipe", f"task={task}", "trial=true", f"runs={tmp_path}")
    folder = tmp_path / "trial" / "weights" / task
    assert {p.name for p in folder.iterdir()} >= {"manifest.json", "world_model", "inverse_dynamics"}
    assert (tmp_path / "trial/results" / f"planning_{task}.json").is_file()
    again = [
        invoke.command(module, *options) for _, module, *options in lines(task, trial="true", runs=tmp_path)
    ]
    assert sum("finished already" in stage.stdout for stage in again) >= 5
