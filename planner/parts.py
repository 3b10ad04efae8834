"""Puts the parts together that a configuration names: the wiring, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig

from envs.base import TaskEnv
from inverse_dynamics.model import InverseDynamics
from planner.decomposer.base import AS_TOLD, Decomposer
from planner.locator import Locator
from tasks import Task
from tasks.commands import CommandError, factory, plain
from tasks.shipped import shown, trained_otherwise, weights_folder
from world_model.device import pick_device
from world_model.memory.base import WritesItsWay
from world_model.model import WorldModel, fingerprint
from world_model.sampling import open_world_model


@dataclass(frozen=True)
class Parts:
    """Everything an episode needs, and a line of text that names each; no locator where none is written."""

    task: Task
    envs: list[TaskEnv]
    decomposer: Decomposer
    world_model: WorldModel
    inverse_dynamics: InverseDynamics
    locator: Locator | None
    header: dict[str, str]


def model_folders(cfg: DictConfig) -> tuple[Path, Path]:
    """Where the world model and the inverse dynamics model of a configuration lie: given or shipped."""
    memory = hydra.utils.instantiate(cfg.memory)
    return (
        weights_folder(cfg.weights, cfg.task.name, "world_model", memory.name),
        weights_folder(cfg.inverse_dynamics, cfg.task.name, "inverse_dynamics"),
    )


def versions(cfg: DictConfig) -> dict[str, str]:
    """Which weights stand behind the options: the digests of both models' files."""
    world_model, reader = model_folders(cfg)
    return {"world_model": fingerprint(world_model), "inverse_dynamics": fingerprint(reader)}


def assemble(cfg: DictConfig, count: int) -> Parts:
    """Open every part of ``cfg``; ``count`` environments."""
    task: Task = hydra.utils.instantiate(cfg.task)
    make_env = factory(cfg, "env")
    decomposer: Decomposer = hydra.utils.instantiate(cfg.decomposer)
    memory = hydra.utils.instantiate(cfg.memory)
    device = pick_device(cfg.device)
    model_folder, reader_folder = model_folders(cfg)
    world_model = open_world_model(cfg, model_folder, memory)
    if world_model.settings.chunk_frames != task.chunk_frames:
        raise CommandError(
            f"{model_folder} makes chunks of {world_model.settings.chunk_frames} frames, "
            f"task={task.name} needs {task.chunk_frames}"
        )
    reader = InverseDynamics.from_pretrained(reader_folder).to(device).eval()
    envs = [make_env(task=task) for _ in range(count)]
    check_reader(reader, reader_folder, envs[0])
    used = world_model.settings
    header = {
        "task": f"{task.name} ({task.unit})",
        "env": envs[0].name,
        "model": f"{used.name}, {used.sampling_steps} sampling steps, guidance {list(used.guidance)}",
        "weights": f"{shown(model_folder)} ({world_model.version})",
        "memory": memory.name,
        "inverse dynamics": f"{shown(reader_folder)} ({fingerprint(reader_folder)})",
        "decomposer": decomposer.name if task.as_told(task.instruction) is None else AS_TOLD,
        "device": f"{device}, {cfg.precision}",
    }
    if isinstance(remembers := world_model.memory, WritesItsWay) and (written := remembers.kept()):
        shown_as = {
            k: list(v) if isinstance(v, tuple) else v for k, v in written.items()
        }  # as on a command line
        header["fast learning"] = ", ".join(f"{option}={value}" for option, value in shown_as.items())
    if other := trained_otherwise(model_folder, plain(cfg)["task"]):
        header["trained with"] = ", ".join(
            f"task.{name}={value} (here {cfg.task[name]})" for name, value in other.items()
        )
    locator = None
    if cfg.get("locator") is None:
        header[f"imagined {task.figure}"] = (
            "not measured: nothing in configs/locator reads this task's frames"
        )
    else:
        locator = hydra.utils.instantiate(cfg.locator)(task=task, env=envs[0], reader=reader)
    return Parts(task, envs, decomposer, world_model, reader, locator, header)


def check_reader(reader: InverseDynamics, folder: Path, env: TaskEnv) -> None:
    """CommandError unless the model reads this env's frames and gives its actions."""
    shape = tuple(env.observation_space.shape or ())
    if reader.config.image_size != shape[:2]:
        sides = "×".join(map(str, reader.config.image_size)), "×".join(map(str, shape[:2]))
        raise CommandError(
            f"{folder} reads frames of {sides[0]} px, env={env.name} gives {sides[1]}; set env.image_size or "
            "train another with inverse_dynamics.train"
        )
    if reader.spec.names != env.action_spec.names:
        raise CommandError(
            f"{folder} reads the actions {', '.join(reader.spec.names)}; task={env.task.name} has "
            f"{', '.join(env.action_spec.names)}; give the weights of this task"
        )
