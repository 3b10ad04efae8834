"""Makes a task's weights: runs the commands of ``configs/recipe/TASK.yaml``, in order.

    python -m planner.recipe task=path_retrace

Each of them goes on where it was stopped, so the same command goes on with the whole, and a stage that is
finished says so. ``show=true`` prints the commands, ``trial=true`` runs each in a few steps.

``"memories=[none,first_frame]" trainings=3`` trains the loop with these memories as well, and each of them and the
shipped one three times: from the base that is shipped, on the same data, in as many steps, with other seeds. Then their
rows of the planning table are measured, too. ``shipped=true`` does that alone, with the weights that are there.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from tasks.commands import ROOT, CommandError, OptionError, integer, main, plain

LOOP, TABLE = "world_model.slowfast_loop", "planner.evaluate"
SHARE = ("world_model.pretrain", LOOP)  # what several processes do together
SHIPPED = "temp_lora"  # the memory whose loop is shipped
SEEDS_APART = 100  # between two trainings, whose passes have different seeds


@dataclass(frozen=True)
class Stage:
    """One command of a recipe; ``{task}``, ``{data}``, ``{runs}`` and ``{weights}`` stand for themselves, ``{loop}``
    for the beginning of the names of one training's run directories, ``{rows}`` for the further memories' rows.

    Attributes:
        module: what ``python -m`` runs.
        options: of the command, without ``task=``.
        trial: further ones that make it short.
    """

    module: str
    options: tuple[str, ...]
    trial: tuple[str, ...]

    def at(self, places: Mapping[str, str]) -> Stage:
        """The same with its places filled in. Raises CommandError for a place that is none."""
        try:
            options, trial = (tuple(o.format_map(places) for o in of) for of in (self.options, self.trial))
        except (KeyError, ValueError, IndexError) as error:
            raise CommandError(
                f"the recipe's stage {self.module} names the place {error}; have {', '.join(places)}"
            ) from None
        return replace(self, options=options, trial=trial)

    @property
    def given(self) -> dict[str, str]:
        """The options by their names."""
        return dict(option.split("=", 1) for option in self.options)

    def told(self, **options: str | int) -> Stage:
        """The same with other or further options."""
        given = {**self.given, **options}
        return replace(self, options=tuple(f"{name}={value}" for name, value in given.items()))

    def without(self, beginning: str) -> Stage:
        """The same without options whose names begin so."""
        return replace(self, options=tuple(o for o in self.options if not o.startswith(beginning)))

    def command(self, task: str, processes: int, trial: bool) -> list[str]:
        """The command line, without the interpreter."""
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        shared = launcher if processes > 1 and self.module in SHARE else []
        return ["-m", *shared, self.module, f"task={task}", *self.options, *(self.trial if trial else ())]


def recipe_of(cfg: DictConfig) -> list[Stage]:
    """The stages of the task's recipe.

    Raises:
        CommandError: there is none, or a stage of it has anything but a module, options and trial.
    """
    if cfg.get("recipe") is None:
        name = cfg.task.name
        raise CommandError(
            f"task={name} has no recipe; write configs/recipe/{name}.yaml, as cube_return has one"
        )
    stages = []
    for stage in plain(cfg)["recipe"]["stages"]:
        if set(stage) != {"module", "options", "trial"}:
            raise CommandError(
                f"a stage of the recipe has {', '.join(stage)}; expected module, options and trial"
            )
        stages.append(Stage(stage["module"], tuple(stage["options"]), tuple(stage["trial"])))
    return stages


@dataclass(frozen=True)
class Training:
    """One training of the loop.

    Attributes:
        memory: that it is made with.
        number: from 1, among those with this memory.
    """

    memory: str = SHIPPED
    number: int = 1

    def places(self, places: Mapping[str, str]) -> dict[str, str]:
        """Places with this training's own: its last run directory, whose name the earlier ones' begin with."""
        memory = "" if self.memory == SHIPPED else f"-{self.memory}"
        number = "" if self.number == 1 else f"-training{self.number}"
        return {**places, "loop": f"{places['runs']}/slowfast_loop/{places['task']}{memory}{number}"}

    def stages(self, loop: Sequence[Stage], places: Mapping[str, str]) -> list[Stage]:
        """The loop's stages for this training: from the shipped base, with its memory, with seeds of its own."""
        apart = SEEDS_APART * (self.number - 1)
        its = [stage.at(self.places(places)) for stage in loop]
        its = [s.told(memory=self.memory, seed=int(s.given.get("seed", 0)) + apart) for s in its]
        if self.memory != SHIPPED:
            its = [s.without("memory.") for s in its]
        return [its[0].told(weights=f"{places['weights']}/{places['task']}/world_model"), *its[1:]]


def rows_of(memories: Sequence[str]) -> list[str]:
    """The planning table's rows on loops with these memories. OptionError for one that has none, or is named twice."""
    from planner.table_rows import MODEL_ROWS  # imports torch, which the usual recipe does without

    have = sorted({row.loop for row in MODEL_ROWS.values() if row.loop} - {SHIPPED})
    if not set(memories) <= set(have) or len(set(memories)) < len(memories):
        raise OptionError(f"memories={list(memories)}: expected some of {', '.join(have)}, each once")
    return [name for name, row in MODEL_ROWS.items() if row.loop in memories]


def further_trainings(cfg: DictConfig) -> list[Training]:
    """The loop's trainings beside the one that is shipped: so many with each further memory, and with its own."""
    if not isinstance(cfg.memories, ListConfig):
        raise OptionError(f"memories={cfg.memories}: expected a list, as [none,first_frame]")
    numbers = range(1, integer(cfg, "trainings", 1) + 1)
    every = [Training(memory, number) for memory in (SHIPPED, *cfg.memories) for number in numbers]
    further = [training for training in every if training != Training()]
    if cfg.shipped and not further:
        raise OptionError("shipped=true leaves nothing to train; give memories=[first_frame], or trainings=3")
    return further


def loop_weights(trainings: Sequence[Training], places: Mapping[str, str]) -> tuple[str, ...]:
    """The table's options that name the loop's weights; of temp_lora's trainings the first is the shipped one."""
    folders = {SHIPPED: [f"{places['weights']}/{places['task']}/world_model-{SHIPPED}"]}
    for training in trainings:
        folders.setdefault(training.memory, []).append(f"{training.places(places)['loop']}/model")
    return tuple(f"loop_weights.{memory}=[{','.join(of)}]" for memory, of in folders.items())


def stages_of(cfg: DictConfig, places: Mapping[str, str]) -> list[Stage]:
    """The recipe's stages with their places: what is shipped, the loop's further trainings, the table."""
    trainings, stages = further_trainings(cfg), recipe_of(cfg)
    rows = rows_of(cfg.memories) if cfg.memories else []
    places = {**places, "rows": "".join(f",{row}" for row in rows)}
    loop = [stage for stage in stages if stage.module == LOOP]
    own = [stage.at(Training().places(places)) for stage in stages]
    first = [stage for stage in own if stage.module != TABLE]
    if cfg.shipped:
        read = [folder for s in own if s.module == LOOP for folder in s.given["data"].strip("[]").split(",")]
        first = [stage for stage in first if stage.given.get("path") in read]
    further = [stage for training in trainings for stage in training.stages(loop, places)]
    named = loop_weights(trainings, places)
    table = [replace(s, options=(*s.options, *named)) for s in own if s.module == TABLE]
    return [*first, *further, *table]


def places_of(cfg: DictConfig) -> dict[str, str]:
    """Where things lie; of a trial all in one folder, but for shipped weights. Started elsewhere than in the
    repository, the weights' place is written out, for it lies there, and a trial's, for the table does."""
    here = Path() if Path.cwd() == ROOT else Path.cwd()
    places = {name: str(cfg[name]) for name in ("data", "runs", "weights")}
    if here.is_absolute():
        places["weights"] = str(ROOT / cfg.weights)
    if cfg.trial:
        folder = here / cfg.runs / ("trial-shipped" if cfg.shipped else "trial")
        moved = ("data",) if cfg.shipped else ("data", "weights")
        places |= {"runs": str(folder), **{name: str(folder / Path(cfg[name]).name) for name in moved}}
    return {**places, "task": cfg.task.name}


def commands(cfg: DictConfig) -> list[list[str]]:
    """The command lines of a configuration."""
    processes, stages = integer(cfg, "processes", 1), stages_of(cfg, places_of(cfg))
    return [stage.command(cfg.task.name, processes, cfg.trial) for stage in stages]


def check_shipped(folder: Path) -> None:
    """CommandError unless the weights that ``shipped`` begins with are in a task's folder."""
    for part in ("world_model", f"world_model-{SHIPPED}", "inverse_dynamics"):
        if not (folder / part).is_dir():
            raise CommandError(
                f"shipped=true: {folder / part} is missing; the recipe without it makes these weights"
            )


def run(cfg: DictConfig) -> None:
    lines = commands(cfg)
    if cfg.shipped:
        check_shipped(Path(places_of(cfg)["weights"], cfg.task.name))
    for number, line in enumerate(lines, 1):
        print(f"[{number}/{len(lines)}] python {shlex.join(line)}", flush=True)
        if cfg.show:
            continue
        code = subprocess.run([sys.executable, *line], check=False).returncode
        if code:
            raise CommandError(
                f"stage {number} of {len(lines)} ended with exit code {code}; put right what it says above, "
                "then give the same command again: it goes on there"
            )


if __name__ == "__main__":
    main("recipe", run)
