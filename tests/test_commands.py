"""The options, errors and run directories that every command shares."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

import tasks.commands
from tasks.commands import (
    CONFIGS,
    CommandError,
    OptionError,
    RunDir,
    compose,
    factory,
    integer,
    main,
    plain,
    task_words,
)
from tasks.files import atomic_path, write_json
from tasks.shipped import trained_otherwise, weights_folder

REPO = Path(__file__).resolve().parents[1]


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))


def test_compose_fills_in_and_overrides():
    cfg = compose("collect", ["episodes=3", "task.cubes=[red,green]", "env.image_size=32"])
    assert (cfg.episodes, cfg.env.image_size, cfg.path) == (3, 32, "data/cube_return")
    assert hydra.utils.instantiate(cfg.task).vocabulary.objects == ("red cube", "green cube")


@pytest.mark.parametrize(
    "words", ["task=cube_return", "task=path_retrace_turn", "task=rlbench task.name=close_jar"]
)
def test_a_task_is_named_as_a_command_takes_it(words):
    assert task_words(compose("run", words.split())) == words


@pytest.mark.parametrize("option", names("task"))
def test_a_task_brings_an_env_and_instantiates(option):
    cfg = compose("collect", [f"task={option}"])
    assert cfg.env._target_.startswith("envs.")
    assert hydra.utils.instantiate(cfg.task).name == cfg.task.name


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("task=x", f"unknown task 'x'; have: {', '.join(names('task'))}"),
        ("env=x", f"unknown env 'x'; have: {', '.join(names('env'))}"),
        ("steps=1", "unknown option 'steps'; have: env, episodes,"),
        ("task.legs=1", "unknown option 'legs' in task; have: _target_, cubes, name"),
        ("episodes", "can't read the option 'episodes'; expected key=value"),
        ("path=a,b", "can't read the option 'path=a,b'; expected key=value"),
        ("path=${nowhere}", "nowhere"),
    ],
)
def test_bad_options_are_one_line(override, says):
    with pytest.raises(OptionError) as error:
        compose("collect", [override])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("option", names("env"))
def test_an_option_that_an_env_does_not_take_is_named(option):
    assert factory(compose("collect", [f"env={option}"]), "env").func.__module__.startswith("envs.")
    with pytest.raises(OptionError, match=r"unknown option 'legs' in env; have: .*image_size"):
        factory(compose("collect", [f"env={option}", "+env.legs=2"]), "env")


@pytest.fixture()
def own_configs(tmp_path, monkeypatch) -> Path:
    """A copy of configs/ that a test may break."""
    monkeypatch.setattr(tasks.commands, "CONFIGS", tmp_path / "configs")
    return Path(shutil.copytree(CONFIGS, tmp_path / "configs"))


@pytest.mark.parametrize("argv", [[], ["episodes=3"], ["spoon=1"]])
@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("task/cube_return.yaml", "cubes: [red, \n foo: : bar", 'task/cube_return.yaml", line 2'),
        ("collect.yaml", "episodes: : 2", 'collect.yaml", line 1'),
        ("collect.yaml", "defaults: 3", "defaults must be a list"),
        ("collect.yaml", "episodes: 2\npath: ${nowhere}", "nowhere"),
    ],
)
def test_a_broken_yaml_is_one_line(own_configs, capsys, file, text, says, argv):
    (own_configs / file).write_text(text)
    code, err = run_main(lambda cfg: None, argv, capsys)
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: ") and says in err


@pytest.mark.parametrize("value", ["2024", "-1", "1e3", "0.5", "007"])
def test_a_folder_may_look_like_a_number(value):
    assert compose("run", [f"run_dir={value}", "episodes=3"]).run_dir == value
    cfg = compose("inverse_dynamics", [f"data={value}", "steps=4"])
    assert (cfg.data, cfg.steps) == (value, 4)
    assert compose("run", ["weights=null"]).weights is None


@pytest.mark.parametrize("value", ["0", "two", "1.5", "true", "null"])
def test_integer_options(value):
    with pytest.raises(OptionError, match=r"expected an integer, at least 1"):
        integer(compose("collect", [f"episodes={value}"]), "episodes", 1)


def run_main(function, argv, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main("collect", function, argv)
    return end.value.code, capsys.readouterr().err


def raises(error):
    def command(cfg):
        raise error

    return command


def test_exit_codes(capsys):
    assert run_main(lambda cfg: None, ["episodes=1"], capsys) == (0, "")
    assert run_main(raises(CommandError("no such thing")), [], capsys) == (1, "error: no such thing\n")
    assert run_main(raises(ValueError("two\n  lines")), [], capsys) == (1, "error: two lines\n")
    assert run_main(raises(FileNotFoundError(2, "No such file", "a/b")), [], capsys) == (
        1,
        "error: a/b: No such file\n",
    )
    code, err = run_main(raises(KeyboardInterrupt()), [], capsys)
    assert code == 130 and err.count("\n") == 1
    code, err = run_main(lambda cfg: None, ["task=nope"], capsys)
    assert code == 2 and err == f"error: unknown task 'nope'; have: {', '.join(names('task'))}\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main("collect", lambda cfg: 1 / 0, [])


def test_instantiation_errors_name_their_cause(capsys):
    def command(cfg):
        hydra.utils.instantiate(cfg.task)

    code, err = run_main(command, ["task.cubes=[pink]"], capsys)
    assert (code, err) == (1, "error: cubes must be one to three of red, green, blue; got ['pink']\n")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("env._target_=envs.tabletop.TabletopEnvv", "envs.tabletop.TabletopEnvv can't be made"),
        ("env._target_=envs.elsewhere.Env", "can't be made (No module named 'envs.elsewhere')"),
        ("env._target_=3", "env._target_=3 can't be made (it is no class or function)"),
        ("env._target_=", "env has no _target_; its options are: _partial_, image_size;"),
        ("~env._target_", "env has no _target_; its options are: _partial_, image_size;"),
        ("~task._target_", "task has no _target_; its options are: cubes, name;"),
        ("+corruption={folder: a}", "corruption has no _target_; its options are: folder;"),
        ("+reader={folder: a}", "reader has no _target_; its options are: folder;"),
        ("+memories={none: {steps: 1}}", "memories.none has no _target_; its options are: steps;"),
    ],
)
def test_a_target_that_is_none_is_one_line(capsys, option, says):
    code, err = run_main(lambda cfg: hydra.utils.instantiate(cfg.env), [option], capsys)
    assert code == 2 and err.count("\n") == 1 and says in err and "module.Class" in err


def test_a_target_whose_import_fails_names_what_is_missing(capsys, tmp_path, monkeypatch):
    (tmp_path / "far_env.py").write_text("import no_such_simulator\nclass Env: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = lambda cfg: hydra.utils.instantiate(cfg.env)  # noqa: E731
    assert run_main(command, ["env._target_=far_env.Env"], capsys) == (
        2,
        "error: env._target_=far_env.Env can't be made (No module named 'no_such_simulator'); "
        "expected module.Class\n",
    )


def test_help_lists_groups_and_options(capsys):
    with pytest.raises(SystemExit) as end:
        main("collect", lambda cfg: None, ["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "task: cube_return" in out and "episodes: 2400" in out


def test_commands_need_no_torch_and_work_from_anywhere(tmp_path):
    code = "import sys; from tasks.commands import compose; compose('collect'); print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert out.stdout == "False\n", out.stderr
    assert not list(tmp_path.iterdir())  # Hydra's outputs/ is off


# --- run directories ---------------------------------------------------------------------------


def options(**changes):
    return OmegaConf.create(
        {"task": {"name": "t"}, "steps": 4, "device": "cpu", "run_dir": None, "fresh": False} | changes
    )


def test_the_same_command_finds_its_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again = RunDir.open("train", options()), RunDir.open("train", options())
    assert (
        first.path == again.path
        and first.path.parent == Path("runs/train")
        and first.path.name.startswith("t-")
    )
    assert (first.resumed, again.resumed) == (False, True)
    assert plain(OmegaConf.load(first / "config.yaml"))["steps"] == 4
    assert RunDir.open("train", options(steps=5)).path != first.path


def test_ignored_options_share_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = RunDir.open("train", options(), ignore=["device"])
    assert RunDir.open("train", options(device="cuda"), ignore=["device"]).path == first.path


def test_fresh_starts_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [RunDir.open("train", options(fresh=fresh)).path.name for fresh in (False, True, True)]
    assert names == [names[0], names[0] + "-2", names[0] + "-3"]


def test_ctrl_c_says_what_goes_on(tmp_path, monkeypatch, capsys):
    """With fresh=true the same command would begin another run."""
    monkeypatch.chdir(tmp_path)

    def interrupted(cfg) -> None:
        RunDir.open("ship", cfg)
        raise KeyboardInterrupt

    for given, says in (
        ([], "the same command"),
        (["+fresh=true"], "run_dir=… as printed above, without fresh=true,"),
    ):
        with pytest.raises(SystemExit) as end:
            main("ship", interrupted, given)
        assert end.value.code == 130
        out, err = capsys.readouterr()
        assert err == f"interrupted; {says} goes on from here\n"
        assert bool(given) == (out.startswith("run_dir=runs/ship/cube_return-") and out.endswith("-2\n"))


def test_a_directory_of_another_config_is_left_alone(tmp_path):
    run = RunDir.open("train", options(run_dir=str(tmp_path / "a")))
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(CommandError, match=r"belongs to another configuration .steps: 4 there, 5 here"):
        RunDir.open("train", options(run_dir=str(tmp_path / "a"), steps=5))
    assert (run / "config.yaml").read_bytes() == before


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CommandError, match=r"no run directory"):
        RunDir.open("train", options(run_dir=str(tmp_path)))
    with pytest.raises(CommandError, match=r"is a file"):
        RunDir.open("train", options(run_dir=str(tmp_path / "thesis.tex")))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


# --- files -------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "deep/a.json", {"a": [1, "é"]})
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "deep/a.json") as temp:
        temp.write_text("half")
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "deep/a.json").read_text()) == {"a": [1, "é"]}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


# --- shipped weights ---------------------------------------------------------------------------


def test_weights_are_those_of_the_memory_where_there_are_any(tmp_path, monkeypatch):
    for name in ("world_model", "world_model-temp_lora"):
        (tmp_path / name).mkdir()
    taken = {
        memory: weights_folder(str(tmp_path), "cube_return", "world_model", memory).name
        for memory in (None, "none", "anchor", "temp_lora", "shuffled temp_lora")
    }
    finetuned = "world_model-temp_lora"
    assert list(taken.values()) == ["world_model", "world_model", "world_model", finetuned, finetuned]
    with pytest.raises(CommandError, match="no_such is missing"):
        weights_folder(str(tmp_path / "no_such"), "cube_return", "world_model")
    with pytest.raises(
        CommandError, match=r"not shipped for task=chess; train them, then give weights=FOLDER$"
    ):
        weights_folder(None, "chess", "world_model")
    monkeypatch.setattr("tasks.shipped.ROOT", tmp_path)
    (tmp_path / "configs/recipe").mkdir(parents=True)
    (tmp_path / "configs/recipe/chess.yaml").touch()
    way = r"`python -m planner.recipe task=chess` makes them, .*; or give inverse_dynamics=FOLDER$"
    with pytest.raises(CommandError, match=way):
        weights_folder(None, "chess", "inverse_dynamics")


def test_what_weights_were_trained_otherwise_with_is_told(tmp_path):
    shipped, run = REPO / "weights/cube_return", tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("task: {name: cube_return, cubes: [green]}\n")
    here = {"name": "cube_return", "cubes": ["red", "blue"]}
    for part in ("world_model", "world_model-temp_lora", "inverse_dynamics"):
        assert trained_otherwise(shipped / part, here) == {}
        assert trained_otherwise(shipped / part, here | {"cubes": ["green"]}) == {"cubes": ["red", "blue"]}
    assert trained_otherwise(run / "model", here) == {"cubes": ["green"]}
    assert trained_otherwise(tmp_path / "elsewhere/model", here) == {}
    for others in ("[1]", '{"model": "a name"}', '{"model": {"options": {"task": "cube_return"}}}'):
        (run / "manifest.json").write_text(others)
        assert trained_otherwise(run / "model", here) == {}


FREED = """
import resource, sys
import numpy as np
from tasks.heap import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
for _ in range(3):
    np.ones(64 * 2**20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(64 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep it")
def test_freed_memory_is_kept_for_the_next_allocation():
    def faults(*words: str) -> int:
        command = [sys.executable, "-c", FREED, *words]
        return int(subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout)

    assert 10 * faults("keep") < faults()
