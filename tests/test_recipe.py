"""Recipes: every stage's options exist, each stage takes what an earlier one made, a stop is one clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import invoke
import pytest

from planner.recipe import Stage, commands, run
from tasks.commands import CommandError, OptionError, compose

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(p.stem for p in (ROOT / "configs" / "recipe").glob("*.yaml"))
FURTHER = {"memories": "[none,first_frame]", "trainings": 2}
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
@pytest.mark.parametrize("given", [{}, {"trial": "true", "memories": "[none]"}])
def test_every_option_of_a_recipe_exists(task, given):
    for _, module, *options in lines(task, **given):
        assert compose(options_of(module), options).task.name == task, module


@pytest.mark.parametrize("task", RECIPES)
@pytest.mark.parametrize("given", [{}, FURTHER])
def test_a_stage_takes_what_earlier_ones_make(task, given):
    made: set[str] = set()
    for _, _module, *options in lines(task, runs="R", data="D", weights="W", **given):
        named = dict(option.split("=", 1) for option in options)
        target = next((named[k] for k in ("run_dir", "path") if k in named), "")
        for key, value in named.items():
            if key not in ("run_dir", "path", "results", "page"):
                for place in re.findall(r"\b[RDW]/[\w/-]+", value):
                    assert any(place == m or place.startswith(f"{m}/") for m in made), (key, place)
        assert target not in made or not target, "two stages write to one place"
        made.add(target)
    assert f"W/{task}" in made


def test_what_is_shipped_is_what_the_last_stages_trained():
    given = {m: dict(o.split("=", 1) for o in options) for _, m, *options in lines("cube_return", runs="R")}
    shipped = given["planner.ship"]
    assert shipped["world_model"] == "R/pretrain/cube_return-longer"
    assert shipped["slowfast_loop.temp_lora"] == given["world_model.slowfast_loop"]["run_dir"]
    assert shipped["inverse_dynamics"] == given["inverse_dynamics.train"]["run_dir"]
    assert compose("ship").path == shipped["path"] == "weights/cube_return"


def test_further_trainings_differ_in_memory_and_seed_alone():
    told = lines("cube_return", runs="R", **FURTHER)
    usual = lines("cube_return", runs="R")
    many = [module for _, module, *_ in usual].count("world_model.slowfast_loop")  # passes of one training
    assert told[: len(usual) - 1] == usual[:-1]  # what is shipped is trained and shipped first, as ever
    passes = [
        dict(o.split("=", 1) for o in options) for _, m, *options in told if m == "world_model.slowfast_loop"
    ]
    shipped, further = passes[:many], passes[many:]
    begins = [(p["memory"], p["weights"]) for p in further[::many]]
    base = "weights/cube_return/world_model"
    assert begins == [("temp_lora", base), *[("none", base)] * 2, *[("first_frame", base)] * 2]
    own = ("memory", "seed", "run_dir", "weights")
    for at, options in enumerate(further):
        same = {k: v for k, v in options.items() if k not in own}
        assert same == {k: v for k, v in shipped[at % many].items() if k not in own}
    seeds = {(p["memory"], int(p["seed"])) for p in further} | {
        ("temp_lora", int(p.get("seed", 0))) for p in shipped
    }
    of_one = {int(p.get("seed", 0)) for p in shipped}
    for memory in ("temp_lora", "none"):
        assert {s for m, s in seeds if m == memory} == of_one | {s + 100 for s in of_one}
    table = compose("evaluate", told[-1][2:])
    loop = "R/slowfast_loop/cube_return"
    assert list(table.loop_weights.none) == [f"{loop}-none/model", f"{loop}-none-training2/model"]
    assert list(table.loop_weights.temp_lora) == [
        "weights/cube_return/world_model-temp_lora",
        f"{loop}-training2/model",
    ]


def test_further_trainings_of_what_is_shipped_train_nothing_else():
    told = lines("path_retrace", weights="W", shipped="true", memories="[none]")
    assert [m for _, m, *_ in told] == [
        *["envs.collect"] * 3, *["world_model.slowfast_loop"] * 2, "planner.evaluate",
    ]  # fmt: skip  # the walks told in full are not the loop's
    first = dict(option.split("=", 1) for option in told[3][2:])
    assert (first["memory"], first["weights"]) == ("none", "W/path_retrace/world_model")
    for line in lines("path_retrace", weights="W", runs="R", shipped="true", memories="[none]", trial="true"):
        places = [o for o in line if re.search(r"(^|[=\[,])(R|W)/", o)]
        assert places and all("R/trial-shipped/" in p or "W/path_retrace" in p for p in places)
    with pytest.raises(OptionError, match=r"shipped=true leaves nothing to train; give memories="):
        lines("path_retrace", shipped="true")
    absent = compose("recipe", ["shipped=true", "memories=[none]", "weights=/nowhere"])
    with pytest.raises(
        CommandError, match=r"/nowhere/cube_return/world_model is missing; the recipe without"
    ):
        run(absent)


@pytest.mark.parametrize("memories", ["[no_such]", "[temp_lora]", "[none,none]", "[shuffled]"])
def test_further_memories_are_those_with_a_row(memories):
    with pytest.raises(OptionError, match=r"^memories=.*: expected some of anchor, .*none, .*, each once$"):
        lines("cube_return", memories=memories)


@pytest.mark.parametrize("memories", ["none", "null"])
def test_further_memories_are_a_list(memories):
    with pytest.raises(
        OptionError, match=rf"^memories={memories.replace('null', 'None')}: expected a list, as"
    ):
        lines("cube_return", memories=memories)


def test_a_trial_writes_to_a_place_of_its_own():
    for _, _module, *options in lines(
        "path_retrace", trial="true", runs="R", data="elsewhere/D", weights="W"
    ):
        places = [o for o in options if re.search(r"(^|[=\[,])(R|D|W|elsewhere)/", o)]
        assert places and all("R/trial/" in p for p in places)


def test_a_recipe_started_elsewhere_ships_to_and_reads_from_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    further = {"shipped": "true", "memories": "[none]"}
    for options, place in (({}, ROOT), ({"trial": "true"}, tmp_path / "runs/trial"), (further, ROOT)):
        told = lines("path_retrace", **options)
        given = [o for line in told for o in line if "weights/path_retrace" in o]
        assert given and all(re.search(rf"[=\[]{place}/weights/path_retrace", o) for o in given)
        assert not [o for o in told[-1] if o.startswith(("results=", "page=")) and f"={tmp_path}" not in o]


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
        Stage("envs.collect", ("path={moon}/x",), ()).at({"runs": "R", "task": "t"})


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
    assert "stage 1 of 11 ended with exit code 1" in done.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "further"), [("cube_return", {}), ("path_retrace", {"memories": "[first_frame]"})]
)
def test_a_recipe_runs_from_nothing_to_weights_and_a_table(tmp_path, task, further, monkeypatch):
    """Its stages run in this process, as each imports torch and diffusers anew in one of its own."""
    outside = subprocess.run

    def inside(line: list[str], **kwargs: object) -> object:
        if line[:2] == [sys.executable, "-m"]:
            return invoke.command(*line[2:], check=False)
        return outside(line, **kwargs)

    monkeypatch.setattr(subprocess, "run", inside)
    given = [f"{k}={v}" for k, v in further.items()]
    invoke.command("planner.recipe", f"task={task}", "trial=true", f"runs={tmp_path}", *given)
    folder = tmp_path / "trial" / "weights" / task
    assert {p.name for p in folder.iterdir()} >= {"manifest.json", "world_model", "inverse_dynamics"}
    table = json.loads((tmp_path / "trial/results" / f"planning_{task}.json").read_text())
    assert {"full", *(["first_frame"] if further else [])} <= set(table["rows"])
    told = lines(task, trial="true", runs=tmp_path, **further)
    again = [invoke.command(module, *options) for _, module, *options in told]
    assert sum("finished already" in stage.stdout for stage in again) >= 4
