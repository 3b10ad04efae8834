"""The recipe at its smallest, through the real commands: collect, train, resume, plan, report."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invoke import command
from safetensors.torch import load_file

from world_model.memory.adapter import write_safetensors

ROOT = Path(__file__).resolve().parent.parent
SMALL_MODEL = [
    "model.unet.block_out_channels=[8,16]",
    "model.unet.norm_num_groups=4",
    "model.unet.attention_head_dim=4",
    "model.autoencoder.block_out_channels=[8,8,16]",
    "model.sampling_steps=2",
]


def kill_once_there(file: Path, module: str, *options: str) -> None:
    """Begin a command in a process of its own, and kill it as soon as it has written ``file``."""
    arguments = [sys.executable, "-m", module, *options]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, Path]:
    """Data and weights that the commands made in a few steps; the world model's training was killed half-way."""
    folder = tmp_path_factory.mktemp("recipe")
    data, model, reader = folder / "data", folder / "pretrain", folder / "reader"
    command("envs.collect", "episodes=4", "workers=1", f"path={data}")
    training = [
        "world_model.pretrain", f"data={data}", f"run_dir={model}", "autoencoder.steps=4", "autoencoder.batch_size=4",
        "autoencoder.every=2", "diffusion.steps=4", "diffusion.batch_size=2", "diffusion.every=2",
        "diffusion.held_out_chunks=1", *SMALL_MODEL,
    ]  # fmt: skip
    kill_once_there(model / "training/last.safetensors", *training)
    assert "going on at step 2 of 4" in command(*training).stdout
    command(
        "inverse_dynamics.train", f"data={data}", f"run_dir={reader}", "steps=4", "batch_size=4", "every=2"
    )
    return {"data": data, "weights": model / "model", "reader": reader / "model", "folder": folder}


@pytest.mark.parametrize(
    ("memory", "condition_on"),
    [
        pytest.param("temp_lora", "imagined", marks=pytest.mark.slow),
        pytest.param("none", "imagined", marks=pytest.mark.long),
        pytest.param("none", "observed", marks=pytest.mark.long),
        pytest.param("temp_lora", "observed", marks=pytest.mark.long),
    ],
)
def test_planning_on_weights_that_the_trainers_saved(recipe, memory, condition_on):
    run_dir = recipe["folder"] / f"run-{memory}-{condition_on}"
    options = [
        "episodes=2", "batch_size=2", "media=1", f"memory={memory}", f"condition_on={condition_on}",
        f"weights={recipe['weights']}",
        f"inverse_dynamics={recipe['reader']}", f"run_dir={run_dir}",
    ]  # fmt: skip
    first = command("planner.run", *options).stdout
    result = json.loads((run_dir / "result.json").read_text())
    assert len(result["episodes"]) == 2
    assert result["parts"]["memory"] == memory
    assert result["summary"]["executed"]["n"] == 2
    assert all(e["seconds"]["imagine"] > 0 for e in result["episodes"])
    assert [len(e["plan"]) for e in result["episodes"]] == [4, 8]
    page = (run_dir / "report.html").read_text()
    assert "base64," in page and "http://" not in page and "https://" not in page
    assert list((run_dir / "media").glob("*.mp4")) and list((run_dir / "media").glob("*.gif"))
    again = command("planner.run", *options).stdout
    assert "finished already" in again
    assert first.strip().splitlines()[-3:] == again.strip().splitlines()[-3:]


@pytest.mark.slow
def test_an_instruction_of_ones_own_counts_only_the_cubes_it_names(recipe):
    run_dir = recipe["folder"] / "instructed"
    command(
        "planner.run", "episodes=2", "batch_size=2", "media=0", f"weights={recipe['weights']}", f"run_dir={run_dir}",
        f"inverse_dynamics={recipe['reader']}", "instruction='Put the blue cube on the left, then bring it back.'",
    )  # fmt: skip
    for episode in json.loads((run_dir / "result.json").read_text())["episodes"]:
        assert list(episode["distances"]) == ["blue cube"]
        assert episode["plan"][1] == "put the blue cube on the left"


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_result(recipe):
    base = [
        "episodes=3", "batch_size=1", "media=0", "sampling_steps=8", f"weights={recipe['weights']}",
        f"inverse_dynamics={recipe['reader']}",
    ]  # fmt: skip
    whole, cut = recipe["folder"] / "whole", recipe["folder"] / "cut"
    command("planner.run", *base, f"run_dir={whole}")
    arguments = [sys.executable, "-m", "planner.run", *base, f"run_dir={cut}"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((cut / "episodes").glob("*.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (cut / "episodes").glob("*.json")}
    assert 0 < len(finished) < 3 and not (cut / "result.json").exists()
    command("planner.run", *base, f"run_dir={cut}")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    results = [json.loads((d / "result.json").read_text())["episodes"] for d in (whole, cut)]
    for a, b in zip(*results, strict=True):
        assert {**a, "seconds": 0, "peak_mb": 0} == {**b, "seconds": 0, "peak_mb": 0}


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["task=chess"], "unknown task 'chess'; have: cube_return", 2),
        (["env=mars"], "unknown env 'mars'", 2),
        (["memory=elephant"], "unknown memory 'elephant'", 2),
        (["episodes=0"], "episodes=0", 2),
        (["condition_on=hope"], "condition_on=hope", 2),
        (["save_memory=off"], "save_memory=off: expected true or false", 2),
        (["fresh=no"], "fresh=no: expected true or false", 2),
        (["seed=100"], "seed=100: expected 0 to 99", 1),
        (["instruction='boil the ocean'"], "can't read the instruction 'boil the ocean'", 1),
        (["weights=no/such/folder"], "no/such/folder", 1),
        (["spoon=1"], "unknown option 'spoon'", 2),
        (["device=tpu9"], "device=tpu9", 1),
        (["guidance=5"], "guidance=5: expected two numbers", 2),
        (["guidance=[a,b]"], "expected two numbers", 2),
        (["guidance=[true,1]"], "expected two numbers", 2),
        (["guidance=[nan,nan]"], "expected two numbers", 2),
        (["theta_in=5"], "theta_in=5: expected a list of uncond, past, text", 2),
        (["sampling_steps=abc"], "sampling_steps=abc", 2),
        (["instruction=true"], "instruction=True: expected words", 2),
        (["instruction=''"], "instruction=: expected words", 2),
        (
            ["decomposer=openai", "decomposer.base_url='http://me:sk-secret@host/v1'"],
            "holds more than a server",
            1,
        ),
        (["decomposer=openai", "decomposer.base_url='http://host:abc/v1'"], "expected http://HOST/", 1),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, options, said, code):
    done = command("planner.run", *options, f"run_dir={tmp_path / 'run'}", check=False)
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run").exists(), "the repaired command may take the same directory"


def test_a_run_directory_of_another_configuration_is_left_alone(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("episodes: 3\n")
    done = command("planner.run", f"run_dir={run_dir}", check=False)
    assert done.returncode == 1 and "belongs to another configuration" in done.stderr
    assert (run_dir / "config.yaml").read_text() == "episodes: 3\n"


@pytest.mark.slow
def test_damaged_weights_are_one_clear_line(recipe, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(recipe["weights"], broken)
    file = next((broken / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    done = command(
        "planner.run",
        f"weights={broken}",
        f"inverse_dynamics={recipe['reader']}",
        f"run_dir={tmp_path / 'run'}",
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "broken" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists(), "the repaired command may take the same directory"


def shift_weights(path: Path) -> None:
    """Make another training's weights of a copy."""
    write_safetensors(path, {k: v + 1e-3 for k, v in load_file(path).items()})


def instruments(folder: Path) -> dict:
    return json.loads((folder / "results" / "planning_cube_return.json").read_text())["instruments"]


@pytest.mark.slow
def test_the_loop_and_the_planning_table(recipe):
    """Loop, then table: a finished row is kept, a row without weights is refused before anything runs."""
    folder = recipe["folder"]
    looped = folder / "loop"
    command(
        "world_model.slowfast_loop", f"data={recipe['data']}", f"weights={recipe['weights']}", f"run_dir={looped}",
        "iterations=1", "every=1", "batch_size=1", "outer.steps=2", "memory.steps=1", "held_out_chunks=1",
    )  # fmt: skip
    options = [
        "episodes=4", "batch_size=4", "chunks=2", f"weights={recipe['weights']}", f"results={folder}/results",
        f"inverse_dynamics={recipe['reader']}", f"run_dir={folder}/table", f"page={folder}/results.md",
        "memories.temp_lora.steps=1", "resamples=2",
    ]  # fmt: skip
    refused = command("planner.evaluate", *options, "rows=[no_memory,anchor]", check=False)
    assert refused.returncode == 1 and "slowfast_loop task=cube_return memory=anchor" in refused.stderr
    full = ["rows=[do_nothing,full,shuffled]", f"loop_weights.temp_lora={looped / 'model'}"]
    command("planner.evaluate", *options, *full)
    table = json.loads((folder / "results" / "planning_cube_return.json").read_text())["rows"]
    assert set(table) == {"do_nothing", "full", "shuffled"}
    assert len(table["full"]["effect"]) == 4 and all(e > 0 for e in table["full"]["effect"])
    assert table["do_nothing"]["displaced"]["share"] == 0
    (row,) = (folder / "table" / "finished").glob("full-*.json")
    kept = row.stat().st_mtime_ns
    assert {"imagined", "imagined after the loop"} <= set(instruments(folder)["next_chunk"])
    command("planner.evaluate", *options, "rows=[no_memory]")
    assert set(instruments(folder)["next_chunk"]) == {"imagined", "copied"}  # of other weights, measured anew
    assert row.stat().st_mtime_ns == kept
    assert "no memory, base" in (folder / "results.md").read_text()
    episodes = sorted((folder / "table" / "rows").glob("full-*/*.json"))
    written = [path.stat().st_mtime_ns for path in episodes]
    shutil.copytree(looped / "model", folder / "other")
    shift_weights(folder / "other" / "unet" / "diffusion_pytorch_model.safetensors")
    several = f"loop_weights.temp_lora=[{looped / 'model'},{folder / 'other'}]"
    command("planner.evaluate", *options, "rows=[full,shuffled]", several)
    table = json.loads((folder / "results" / "planning_cube_return.json").read_text())["rows"]
    assert table["full"]["executed"]["n"] == 8 and table["shuffled"]["executed"]["n"] == 4
    assert [e["training"] for e in table["full"]["episodes"]] == [0] * 4 + [1] * 4
    assert len(table["full"]["trainings"]) == 2 and set(table) >= {"no_memory", "do_nothing"}
    assert [path.stat().st_mtime_ns for path in episodes] == written  # the first training's are not run again
    assert "training seeds: **Temp-LoRA + slow-fast loop** 2" in (folder / "results.md").read_text()
