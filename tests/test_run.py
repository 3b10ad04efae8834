"""What planner.run leaves on disk and says: which run a directory is, its order of writing, what it cost."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_model, make_text

from benchmarks import guidance, one_episode
from envs.tabletop import TabletopEnv
from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
from planner.decomposer.scripted import ScriptedDecomposer
from planner.locate import CubeLocator
from planner.loop import PlanResult, _result, begin, execute
from planner.parts import Parts, assemble, check_reader, versions
from planner.records import load_result, save_result
from planner.results import write_results
from planner.run import cost_line, last_words, publish, unfinished
from planner.table_rows import row_versions
from tasks.commands import ROOT, CommandError, RunDir, compose
from tasks.cube_return import CubeReturn
from tasks.files import read_json, write_json
from tasks.process import Stages, peak_megabytes, seconds_alive
from world_model.diffusion import guidance_factors
from world_model.memory.shuffled import Shuffled
from world_model.memory.temp_lora import TempLora
from world_model.model import fingerprint

TASK, SEED = CubeReturn(), 1_000_000


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv()
    yield env
    env.close()


@pytest.fixture(scope="module")
def reader():
    return InverseDynamics(InverseDynamicsConfig(TASK.action_spec))


def test_episodes_that_read_each_other_run_in_whole_batches(result, tmp_path):
    """What is finished of a batch counts only where an episode's memory is its own."""
    for memory, then in ((TempLora(), [4]), (Shuffled(TempLora()), [3, 4])):
        folder = tmp_path / memory.name
        assert unfinished(folder, [3, 4], memory) == [3, 4]
        save_result(folder, replace(result, layout=replace(result.layout, seed=3)))
        assert unfinished(folder, [3, 4], memory) == then
        save_result(folder, replace(result, layout=replace(result.layout, seed=4)))
        assert unfinished(folder, [3, 4], memory) == []


@pytest.fixture(scope="module")
def result(env) -> PlanResult:
    """An episode in which the arm is sent where it can't go."""
    running = begin(env, SEED, ScriptedDecomposer(), None)
    away = [0.95, 0.0, 0.2, 1, 0, 0, 0, 1]
    execute(running, np.tile(away, (TASK.chunk_frames * len(running.plan), 1)))
    running.imagined = running.executed
    made = _result(running, CubeLocator(env.camera, TASK.vocabulary.objects))
    return replace(made, seconds={"imagine": 1.5})


@pytest.fixture(scope="module")
def parts(env, reader) -> Parts:
    locator = CubeLocator(env.camera, TASK.vocabulary.objects)
    header = {"task": "cube_return (m)", "env": env.name}
    return Parts(TASK, [env], ScriptedDecomposer(), make_model(make_text()), reader, locator, header)


def weights(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


# --- which run it is -------------------------------------------------------------------------


def test_other_weights_behind_the_same_options_are_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [weights(tmp_path / name, b"first") for name in ("model", "reader")]
    cfg = compose("run", [f"weights={folders[0]}", f"inverse_dynamics={folders[1]}"])
    first = RunDir.open("run", cfg, versions=versions(cfg))
    assert RunDir.open("run", cfg, versions=versions(cfg)).path == first.path
    weights(folders[1], b"trained for longer")
    assert RunDir.open("run", cfg, versions=versions(cfg)).path != first.path
    cfg.run_dir = str(first.path)
    with pytest.raises(CommandError, match=r"another configuration \(versions.inverse_dynamics: .* there"):
        RunDir.open("run", cfg, versions=versions(cfg))


def test_other_weights_name_a_rows_files_anew(tmp_path):
    folder = weights(tmp_path / "model", b"first")
    cfg = compose("evaluate", [f"weights={folder}", f"inverse_dynamics={folder}"])
    rows = ("no_memory", "true_frames", "do_nothing")

    def keys() -> dict[str, str]:
        def version(name: str) -> str:
            return fingerprint(Path(name))

        return {row: row_versions(row, cfg, fingerprint(folder), version).key for row in rows}

    first = keys()
    weights(folder, b"second")
    again = keys()
    assert [row for row in rows if first[row] != again[row]] == ["no_memory", "true_frames"]


def test_a_reader_of_other_frames_or_actions_is_refused(env, reader, tmp_path):
    check_reader(reader, tmp_path, env)
    with pytest.raises(CommandError, match=r"frames of 64×64 px, env=tabletop.* gives 32×32"):
        check_reader(reader, tmp_path, TabletopEnv(image_size=32))
    names = ("forward", *TASK.action_spec.names[1:])
    other = InverseDynamics(InverseDynamicsConfig(replace(TASK.action_spec, names=names)))
    with pytest.raises(CommandError, match=r"reads the actions forward, .*task=cube_return has x"):
        check_reader(other, tmp_path, env)


def test_the_header_says_how_fast_learning_writes():
    """As the weights were trained, but for what the command line gives."""
    kept = read_json(ROOT / "weights/cube_return/world_model-temp_lora/memory.json")["options"]
    with_memory = assemble(compose("run", ["memory=temp_lora", "memory.steps=3"]), 1)
    assert with_memory.header["fast learning"] == ", ".join(
        f"{option}={value}" for option, value in (kept | {"steps": 3}).items()
    )
    assert "fast learning" not in assemble(compose("run", ["memory=none"]), 1).header


# --- what it writes --------------------------------------------------------------------------


def test_the_result_is_written_last_and_says_what_it_cost(tmp_path, parts, result):
    """A run killed while it makes the report is not finished: the same command makes it again."""
    cfg = compose("run", ["media=1", f"run_dir={tmp_path / 'run'}"])
    run_dir, stages = RunDir.open("run", cfg), Stages()
    stages.end("start")
    (run_dir / "media").write_text("in the way of the clips")
    with pytest.raises(OSError):
        publish(run_dir, parts, cfg, [result], stages, ran=1)
    assert not (run_dir / "result.json").exists()
    (run_dir / "media").unlink()
    written = publish(run_dir, parts, cfg, [result], stages, ran=1)
    assert read_json(run_dir / "result.json") == written
    assert set(written["cost"]["seconds"]) == {"start", "report"} and written["cost"]["peak_mb"] > 100
    page, said = (run_dir / "report.html").read_text(), last_words(written, TASK, run_dir)
    assert "peak memory" in page and result.layout.instruction in page and "Instructions such as" not in page
    assert cost_line(written["cost"]) in said and said.endswith("report.html")
    assert "start " in said and "peak memory" in said and "distance  executed" in said
    off = re.search(
        r"imagined places  read off frames; on the executed ones (\d\.\d) mm off \(median\)", said
    )
    assert off and float(off[1]) < 3 and off[0].partition("  ")[2] in page  # cubes that nobody moved


@pytest.mark.parametrize("damaged", [".npz", ".json"])
@pytest.mark.parametrize("how", ["cut", "lost"])
def test_a_damaged_episode_is_named(tmp_path, result, damaged, how):
    save_result(tmp_path, result)
    file = tmp_path / f"{SEED}{damaged}"
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if (damaged, how) == (".json", "lost"):
        assert load_result(tmp_path, SEED) is None  # the json says that the episode is whole
        return
    with pytest.raises(
        ValueError, match=rf"{SEED}.json and .npz hold no whole episode .*delete both"
    ) as error:
        load_result(tmp_path, SEED)
    assert "\n" not in str(error.value)


# --- what it costs ---------------------------------------------------------------------------


def test_a_process_counts_from_its_start():
    code = (
        "import time; time.sleep(0.5)\n"
        "from tasks.process import Stages, seconds_alive\n"
        "stages = Stages(); stages.end('start'); time.sleep(0.2); stages.end('next')\n"
        "print(stages.seconds['start'], stages.seconds['next'], seconds_alive())"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    outside = time.monotonic() - begin
    start, following, alive = map(float, done.stdout.split())
    assert start >= 0.49 and following >= 0.19 and start + following <= alive + 0.02
    assert alive <= outside + 0.05
    assert seconds_alive() > outside


def test_memory_that_was_held_counts_though_it_is_free_again():
    code = (
        "from tasks.process import peak_megabytes\n"
        "before = peak_megabytes(); held = bytes(range(256)) * (100 * 2**12); del held\n"
        "print(before, peak_megabytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    before, after = map(float, done.stdout.split())
    assert 90 <= after - before < 200
    assert before < 100 < peak_megabytes()  # this process, which has torch, is not counted


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak can't begin anew")
def test_the_peak_of_a_part_leaves_that_of_the_whole():
    code = (
        "import mmap\n"
        "from tasks.process import begin_peak, peak_megabytes, recent_peak_megabytes\n"
        "held = mmap.mmap(-1, 100 * 2**20); held[::4096] = bytes(100 * 2**8); held.close()\n"
        "whole = peak_megabytes(); begin_peak(); print(whole, peak_megabytes(), recent_peak_megabytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    before, whole, part = map(float, done.stdout.split())
    assert whole == before and part < before - 90


def test_the_page_says_what_an_episode_costs_and_how_quick_the_simulator_is(tmp_path):
    run = {
        "wall": 41.5, "cost": {"seconds": {"start": 9.0, "episodes": 30.0}, "peak_mb": 900.0},
        "episodes": [{"seed": 7, "seconds": {"imagine": 25.0}}], "parts": {"memory": "none"},
    }  # fmt: skip
    slow = {**run, "wall": 50.0, "cost": {"seconds": {"start": 9.5, "episodes": 39.0}, "peak_mb": 950.0}}
    rows = {"memory=none, 4 chunks": one_episode.summarize([run, run, slow])}
    figures = rows["memory=none, 4 chunks"]["each"]
    assert figures == [{"wall_s": w, "seed": 7} for w in (41.5, 41.5, 50.0)]
    origin = {"command": "c", "commit": "d", "hardware": "e"}
    write_json(tmp_path / "one_episode.json", {"rows": rows, **origin})
    rates = {"physics_steps_per_second_idle": 31234, "physics_steps_per_second_moving": 9876}
    rates |= {"frames_per_second": 456.7, "actions_per_second": 12.34, "mujoco": "4", "opengl": "egl"}
    doom = {
        "frames_per_second": 812.3,
        "frames_per_core_second": 654.3,
        "image_size": 64,
        "n": {"frames": 56},
    }
    both = {
        "tabletop": {**rates, "image_size": 64, "timestep": 0.004},
        "doom": {**doom, "simulator": "doom (V)"},
    }
    write_json(tmp_path / "sim_speed.json", {**both, **origin})
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert "| memory=none, 4 chunks | 41.5 | 50.0 | 9.0 | 30.0 | 25.0 | 950 | 3 |" in page
    assert "| 31,234 | 9,876 | 457 | 12.3 |" in page
    assert "The game: doom (V), frames of 64 px, 56\nsteps of the" in page and "| 812 | 654 |" in page
    hidden = {**both["doom"], "frames_per_core_second": None}
    write_json(tmp_path / "sim_speed.json", {"doom": hidden, **origin})
    assert "| 812 | not told apart |" in write_results(tmp_path, tmp_path / "page.md").read_text()


def test_one_episode_has_an_instruction_for_each_length():
    asked = one_episode.instructions()
    assert set(asked) == {4, 8} and all("'" not in text for text in asked.values())


@pytest.mark.long
def test_one_episode_is_measured_from_outside_and_inside(tmp_path):
    figures = one_episode.one_run("none", one_episode.instructions()[4], ["sampling_steps=1", "media=0"])
    stages = figures["cost"]["seconds"]
    assert list(stages) == ["start", "load", "episodes", "report"]
    assert 0 < sum(stages.values()) <= figures["wall"] + 0.1
    assert figures["episodes"][0]["seconds"]["imagine"] <= stages["episodes"]
    assert torch.cuda.is_available() == ("gpu_peak_mb" in figures["cost"])
    with pytest.raises(RuntimeError, match=r"world_model weights: .* is a file; give its folder"):
        one_episode.one_run("none", "Move it.", [f"weights={__file__}"])


# --- guidance --------------------------------------------------------------------------------


def test_the_page_shows_what_guidance_does(tmp_path):
    mean = {"mean": 0.1, "low": 0.05, "high": 0.2, "n": 3}
    share = {"share": 0.5, "low": 0.2, "high": 0.8, "n": 3}
    row = {"executed": mean, "imagined": mean, "success": share, "imagined_lost": share}
    row |= {
        "passes": 3,
        "parts": {"weights": "w", "memory": "temp_lora"},
    }
    rows = {cell.name: row for cell in guidance.CELLS}
    assert len(rows) == len(guidance.CELLS)
    origin = {"command": "c", "commit": "d", "hardware": "e"}
    write_json(tmp_path / "guidance_cube_return.json", {"rows": rows, **origin})
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    line = "| 0.100 [0.050, 0.200] | 0.100 [0.050, 0.200] | 50% [20%, 80%] | 50% [20%, 80%] | 3 | 3 |"
    assert (
        f"| temp_lora: past 1.5, text 2.5, Θ in text {line}" in page
        and f"| none: past 2, text 5 {line}" in page
    )
    assert "temp_lora on w" in page


@pytest.mark.parametrize("cell", guidance.CELLS, ids=lambda cell: cell.name)
def test_each_cell_of_the_guidance_table_composes(cell):
    cfg = compose("run", cell.options)
    assert tuple(cfg.guidance) == (cell.past, cell.text) and tuple(cfg.theta_in) == cell.theta_in
    assert compose("run", cell.options).memory._target_.endswith("NoMemory") == (cell.memory == "none")


def test_no_two_cells_of_the_guidance_table_compute_the_same():
    def computed(cell: guidance.Cell) -> tuple:
        factors = guidance_factors((cell.past, cell.text))
        seen = frozenset(cell.theta_in) & set(factors) if cell.memory != "none" else frozenset()
        return cell.memory, tuple(factors.items()), seen

    assert len({computed(cell) for cell in guidance.CELLS}) == len(guidance.CELLS)


@pytest.mark.long
def test_a_cell_of_the_guidance_table_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guidance.main(
        ["--episodes", "1", "--cells", "1", "sampling_steps=1", "--json", str(tmp_path / "out.json")]
    )
    ((name, row),) = read_json(tmp_path / "out.json")["rows"].items()
    assert name == guidance.CELLS[0].name and row["executed"]["n"] == 1
    assert row["passes"] == 1
    assert row["parts"]["memory"] == "none" and "guidance [1.0, 1.0]" in row["parts"]["model"]
    (kept,) = (tmp_path / "runs/guidance").glob("*/episodes/*.json")
    assert kept.stem == str(SEED)
    with pytest.raises(SystemExit):
        guidance.main(["--episodes", "0"])
