"""The house: who may import whom, where heavy imports live, that configuration points at real code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import hydra.utils
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

MAY_IMPORT = {
    "planner": {"envs", "world_model", "inverse_dynamics", "tasks"},
    "envs": {"tasks"},
    "world_model": {"tasks"},
    "inverse_dynamics": {"tasks"},
    "tasks": set(),
}
# Each of these is imported by one file at most, so that a machine without it loses only that file.
HEAVY = {"rlbench", "pyrep", "minerl", "minestudio", "openai", "mujoco", "vizdoom"}
NOT_IN_TASKS = HEAVY | {"torch", "diffusers", "peft", "transformers", "accelerate", "gymnasium"}
DRAWERS = {"utils.py", "helpers.py", "common.py", "misc.py"}
WRITTEN = {"runs", "data", "outputs"}  # by the commands, at the root
NOT_OURS = re.compile(r"\.git|\.venv|build|dist|__pycache__|\..*_cache|.*\.egg-info")


def python_files(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


SOURCES = [path for package in MAY_IMPORT for path in python_files(package)]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a file, relative and dynamic ones included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            yield node.lineno, ".".join([*parts, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def text_files() -> Iterator[tuple[Path, str]]:
    """Every file of the tree that is text."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if not path.is_file() or parts[0] in WRITTEN or any(map(NOT_OURS.fullmatch, parts)):
            continue
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            yield path.relative_to(ROOT), data.decode("utf-8", errors="replace")


def test_every_package_is_there():
    assert [p for p in MAY_IMPORT if not python_files(p)] == []


def test_imports_follow_the_arrows():
    wrong = []
    for path in SOURCES:
        package = path.relative_to(ROOT).parts[0]
        for line, name in imported(path):
            top = name.split(".")[0]
            if top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} {package} imports {name}")
    assert wrong == []


def test_tasks_import_no_model_and_no_simulator():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in python_files("tasks")
        for line, name in imported(path)
        if name.split(".")[0] in NOT_IN_TASKS
    ]
    assert wrong == []


def test_heavy_imports_stay_in_one_file_each():
    users = defaultdict(set)
    for path in SOURCES:
        for _, name in imported(path):
            if name.split(".")[0] in HEAVY:
                users[name.split(".")[0]].add(str(path.relative_to(ROOT)))
    assert {name: sorted(files) for name, files in users.items() if len(files) > 1} == {}


def test_no_file_is_a_drawer():
    assert [str(p.relative_to(ROOT)) for p in SOURCES if p.name in DRAWERS] == []


def test_no_bare_except():
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_the_tree_names_no_path_of_one_machine():
    pattern = re.compile(r"\.\./shared\b|(?<![\w./$}])/(?:home|root|work|Users)/\w")
    found = [
        f"{path}:{number} {line.strip()[:80]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


# --- configuration ---------------------------------------------------------------------------


def command_files() -> list[str]:
    return sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def options(group: str) -> list[str]:
    """``task`` -> its yaml names; ``memory`` likewise."""
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))


def groups(command: str) -> list[str]:
    """The groups among a command's defaults, ``group@package`` where the yaml says so."""
    defaults = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text("utf-8")).get("defaults", [])
    keys = [next(iter(entry)) for entry in defaults if isinstance(entry, dict)]
    return [key.removeprefix("override ").removeprefix("optional ").strip("/") for key in keys]


def compositions() -> list[tuple[str, list[str]]]:
    """Each command with each option of each of its groups: the k-th of every group at once."""
    found = []
    for command in command_files():
        mounted = {g: options(g.split("@")[0]) for g in dict.fromkeys(groups(command))}
        for k in range(max(map(len, mounted.values()), default=1)):
            found.append((command, [f"{g}={have[k % len(have)]}" for g, have in mounted.items()]))
    return found


def targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def test_there_are_commands():
    assert {"collect", "revisit", "pretrain", "inverse_dynamics", "run"} <= set(command_files())


@pytest.mark.parametrize(("command", "overrides"), compositions())
def test_config_composes_and_its_targets_exist(command: str, overrides: list[str]):
    from tasks.commands import compose

    config = OmegaConf.to_container(compose(command, overrides), resolve=True)
    for target in targets(config):
        assert callable(hydra.utils.get_object(target)), f"{command} {overrides}: {target}"


# Tasks, envs, decomposers and memories are made of their yaml in test_commands, test_decomposer,
# test_openai_decomposer and test_memory_variants; here the rest.


@pytest.mark.parametrize("name", options("locator"))
def test_a_locator_is_made_of_its_yaml(name: str):
    from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
    from tasks.commands import compose, factory

    cfg = compose("run", [f"task={name}", f"locator={name}"])
    task = hydra.utils.instantiate(cfg.task)
    env, reader = factory(cfg, "env")(task=task), InverseDynamics(InverseDynamicsConfig(task.action_spec))
    locator = hydra.utils.instantiate(cfg.locator)(task=task, env=env, reader=reader)
    assert set(task.layout(0).names) <= set(locator.names) and locator.scale > 0 and locator.unit


@pytest.mark.parametrize("name", options("model"))
def test_a_text_encoder_is_made_of_its_models_yaml(name: str):
    from tasks.commands import compose

    cfg = compose("pretrain", [f"model={name}"])
    text = hydra.utils.instantiate(cfg.model.text)
    assert text.null.shape == (1, 1, cfg.model.unet.cross_attention_dim)


@pytest.mark.parametrize("name", options("features"))
def test_features_are_made_of_their_yaml(tmp_path: Path, name: str):
    from tasks.commands import compose

    given = [f"features={name}"]
    if name == "resnet18":  # at a size of one's own: its weights are on the Hub
        from transformers import ResNetConfig, ResNetModel

        small = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
        ResNetModel(small).save_pretrained(tmp_path)
        given.append(f"features.weights={tmp_path}")
    extractor = hydra.utils.instantiate(compose("evaluate_video", given).features)
    assert extractor.name and extractor(np.zeros((2, 16, 16, 3), np.uint8)).shape[0] == 2


def test_the_corruption_is_made_of_its_yaml():
    from tasks.commands import compose

    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    made = hydra.utils.instantiate(compose("inverse_dynamics").corruption)(frames)
    assert made.shape == frames.shape and made.dtype == np.uint8 and (made != frames).any()


def test_who_records_and_who_reads_is_named_by_its_yaml():
    from tasks.commands import compose

    cfg = compose("evaluate_video")
    assert hydra.utils.instantiate(cfg.record).func is hydra.utils.get_object(cfg.record._target_)
    reader = hydra.utils.instantiate(cfg.reader)(ROOT / "weights/cube_return/inverse_dynamics", "cpu")
    assert reader.actions(np.zeros((1, 2, 64, 64, 3), np.uint8)).shape == (1, 1, len(reader.spec))


def test_every_yaml_belongs_to_a_command():
    used = {group.split("@")[0] for command in command_files() for group in groups(command)} | {"expert"}
    grouped = [p.relative_to(CONFIGS) for p in CONFIGS.rglob("*.yaml") if p.parent != CONFIGS]
    assert [str(p) for p in grouped if p.parent.as_posix() not in used] == []


@pytest.mark.parametrize("name", options("expert"))
def test_every_expert_is_that_of_a_task_s_file(name: str):
    """No command mounts these: ``envs/expert.py`` finds them by the file of a task's class."""
    assert (ROOT / "tasks" / f"{name}.py").is_file()
    assert callable(hydra.utils.instantiate(OmegaConf.load(CONFIGS / "expert" / f"{name}.yaml")))
