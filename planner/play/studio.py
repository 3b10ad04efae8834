"""What can be chosen on the page, and the parts that a choice opens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from inverse_dynamics.model import InverseDynamics
from planner.play.simulation import Executor, Reader, Simulation
from tasks import PlanError, Subgoal, Task
from tasks.commands import ROOT, CommandError, compose, factory, one_line
from tasks.shipped import weights_folder
from world_model.device import pick_device
from world_model.generate import open_model
from world_model.model import SETTINGS, WorldModel, fingerprint

KEYS = {"forward": ("w", "ArrowUp"), "left": ("a", "ArrowLeft"), "right": ("d", "ArrowRight")}
BACK = ("s", "ArrowDown")
SHIPPED = "shipped"


@dataclass(frozen=True)
class Stage:
    """The parts of one choice of task and memory.

    Attributes:
        task: whose actions are offered.
        memory: as in ``memory=NAME``.
        choice: which of the task's weights; see :meth:`Studio.weights`.
        model: with that memory.
        plain: the same networks without memory, to compare with.
        weights: a line that names them.
        cfg: the options it was made from.
    """

    task: Task
    memory: str
    choice: str
    model: WorldModel
    plain: WorldModel
    weights: str
    cfg: DictConfig


class Studio:
    """Opens parts, and keeps the last used ones open.

    Args:
        cfg: the command's options.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg
        self.first_memory: str = hydra.utils.instantiate(cfg.memory).name
        self._open: OrderedDict[tuple[str, str, str], Stage] = OrderedDict()

    @property
    def runs(self) -> Path:
        """Where finished runs lie, and what is saved goes to."""
        return Path(self.cfg.runs)

    def tasks(self) -> list[str]:
        """The command's own task, and all with shipped weights."""
        shipped = sorted(p.parent.name for p in (ROOT / "weights").glob("*/world_model"))
        return list(dict.fromkeys([self.cfg.task.name, *shipped]))

    def memories(self) -> list[str]:
        """The command's own memory, and those that are offered."""
        return list(dict.fromkeys([self.first_memory, *self.cfg.memories]))

    def weights(self, task: str) -> dict[str, str | None]:
        """A task's world models by name, the first one first: the command's own or the shipped one (None), then
        those that training left in the runs folder."""
        given = self.cfg.weights if task == self.cfg.task.name else None
        trained = {told: str(folder) for told, folder, of in trained_models(self.runs) if of == task}
        return {str(given) if given else SHIPPED: given, **trained}

    def offered(self) -> dict[str, list[str]]:
        """The names of the weights of each task."""
        return {task: list(self.weights(task)) for task in self.tasks()}

    def check(self, task: str, memory: str, choice: str) -> None:
        """Raise CommandError for a choice that is not offered."""
        offered = [("task", task, self.tasks()), ("memory", memory, self.memories())]
        for name, chosen, known in [*offered, ("weights", choice, list(self.weights(task)))]:
            if chosen not in known:
                raise CommandError(f"{name}={chosen} is not offered here; have {', '.join(known)}")

    def options(self, task: str, memory: str, choice: str) -> DictConfig:
        """The command's options for another choice; in one thread at a time. Raises CommandError."""
        self.check(task, memory, choice)
        cfg = self.cfg.copy()
        with open_dict(cfg):
            if task != cfg.task.name:
                other = compose("play", [f"task={task}"])
                cfg.task, cfg.env, cfg.locator, cfg.image_size = (
                    other.task,
                    other.env,
                    other.get("locator"),
                    other.image_size,
                )
                cfg.inverse_dynamics = None
            cfg.weights = self.weights(task)[choice]
            if memory != self.first_memory:
                cfg.memory = compose("play", [f"memory={memory}"]).memory
            if "measure_effect" in cfg.memory:
                cfg.memory.measure_effect = cfg.measure_effect
        return cfg

    def stage(self, task: str, memory: str, choice: str) -> Stage:
        """The parts of a choice; for the worker's thread alone. Raises CommandError, CheckpointError."""
        key = task, memory, choice
        if key not in self._open:
            cfg = self.options(*key)
            model, weights = open_model(cfg)
            made: Task = hydra.utils.instantiate(cfg.task)
            self._open[key] = Stage(made, memory, choice, model, model.without_memory(), weights, cfg)
        self._open.move_to_end(key)
        while len(self._open) > self.cfg.models:
            self._open.popitem(last=False)
        return self._open[key]

    def simulation(self, stage: Stage, by: Executor | None) -> Simulation:
        """A simulator of the stage's task; ``by=None`` is for its reset alone.

        The inverse dynamics model is opened where it is needed: without one the expert still acts, and what
        only it could measure is not measured.

        Raises:
            CommandError, CheckpointError, and whatever the simulator does.
        """
        cfg, task = stage.cfg, stage.task
        reader = Reader(lambda: open_reader(cfg, task.name))
        if by == "reader":
            _ = reader.model
        env = factory(cfg, "env")(task=task)
        locator, unmeasured = None, f"Nothing reads places off the frames of task={task.name}"
        if by and cfg.get("locator") is not None:
            try:
                locator = hydra.utils.instantiate(cfg.locator)(task=task, env=env, reader=reader)
            except (CommandError, ValueError) as error:
                if by == "reader":
                    env.close()
                    raise
                unmeasured = f"Not measured: {one_line(error)}"
        return Simulation(env, reader, locator, by, unmeasured)


def trained_models(runs: Path) -> Iterator[tuple[str, Path, str]]:
    """The finished models of ``pretrain`` and ``slowfast_loop``: a run's name, its model's folder, its task."""
    for path in sorted(runs.glob(f"*/*/model/{SETTINGS}")):
        run = path.parent.parent
        try:
            task = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "task.name")
        except (OSError, ValueError, YAMLError, OmegaConfBaseException):
            continue
        yield run.relative_to(runs).as_posix(), path.parent, str(task)


def open_reader(cfg: DictConfig, task: str) -> tuple[InverseDynamics, str]:
    """A task's inverse dynamics model and the digest of its weights. Raises CommandError, CheckpointError."""
    folder = weights_folder(cfg.inverse_dynamics, task, "inverse_dynamics")
    model = InverseDynamics.from_pretrained(folder).to(pick_device(cfg.device)).eval()
    return model, fingerprint(folder)


def usual_actions(task: Task) -> dict[str, Subgoal]:
    """Every subgoal that the task's vocabulary can say, by its caption."""
    words = task.vocabulary
    found: dict[str, Subgoal] = {}
    for kind, thing, target in product(words.kinds, words.objects, (None, *words.targets)):
        try:
            subgoal = task.subgoal(kind, thing, target)
        except PlanError:
            continue
        found.setdefault(subgoal.text, subgoal)
    return found


def shown_actions(task: Task) -> list[dict[str, object]]:
    """The usual actions as the page shows them: caption, group, and for navigation the keys."""
    walks = set(KEYS) <= set(task.vocabulary.targets)
    out: list[dict[str, object]] = []
    for subgoal in usual_actions(task).values():
        keys = (KEYS.get(subgoal.target or "", ()) or BACK) if walks else ()
        out.append({"text": subgoal.text, "kind": subgoal.kind, "keys": list(keys)})
    return out
