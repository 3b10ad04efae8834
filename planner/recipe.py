"""Makes a task's weights: runs the commands of ``configs/recipe/TASK.yaml``, in order.

    python -m planner.recipe task=path_retrace

Each of them goes on where it was stopped, so the same command goes on with the whole, and a stage that is
finished says so. ``show=true`` prints the commands, ``trial=true`` runs each in a few steps.

``memories=[none,first_frame] trainings=3`` trains the loop with these memories as well, each three times: from the same
base, on the same data, in as many steps, with other seeds. Then their rows of the planning table are measured, too.
``shipped=true`` does that alone, with the weights that are there.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from tasks.commands import ROOT, CommandError, OptionError, integer, main, plain

LOOP, TABLE = "world_model.slowfast_loop", "planner.evaluate"
SHARE = ("world_model.pretrain", LOOP)  # what several processes do together
DATA = "envs."  # the modules that make it
SHIPPED = "temp_lora"  # the memory whose loop is shipped
SEEDS_APART = 100  # between two trainings, whose passes have different seeds


@dataclass(frozen=True)
class Stage:
    """One command of a recipe; ``{task}``, ``{data}``, ``{runs}`` and ``{weights}`` stand for themselves, ``{base}``
    for what the loop begins with, ``{loop}`` for the beginning of the names of its run directories, ``{rows}`` for
    the further memories' rows.

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
        return replace(self, options=(f"task={places['task']}", *options), trial=trial)

    def command(self, processes: int, trial: bool) -> list[str]:
        """The command line, without the interpreter."""
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        shared = processes > 1 and self.module in SHARE
        return [
            "-m",
            *(launcher if shared else ()),
            self.module,
            *self.options,
            *(self.trial if trial else ()),
        ]


def recipe_of(cfg: DictConfig) -> tuple[str, list[Stage]]:
    """The task's recipe: what its loop begins with, and the stages.

    Raises:
        CommandError: there is none, or it is not made of ``base`` and stages of module, options and trial.
    """
    if cfg.get("recipe") is None:
        name = cfg.task.name
        raise CommandError(
            f"task={name} has no recipe; write configs/recipe/{name}.yaml, as cube_return has one"
        )
    recipe = plain(cfg)["recipe"]
    if set(recipe) != {"base", "stages"}:
        raise CommandError(f"the recipe has {', '.join(recipe)}; expected base and stages")
    for stage in recipe["stages"]:
        if set(stage) != {"module", "options", "trial"}:
            raise CommandError(
                f"a stage of the recipe has {', '.join(stage)}; expected module, options and trial"
            )
    return recipe["base"], [
        Stage(stage["module"], tuple(stage["options"]), tuple(stage["trial"])) for stage in recipe["stages"]
    ]


@dataclass(frozen=True)
class Training:
    """One training of the loop.

    Attributes:
        memory: that it is made with.
        number: from 1, among those with this memory.
    """

    memory: str = SHIPPED
    number: int = 1

    def name(self, task: str) -> str:
        """Of its last run directory; the earlier ones' begin with it."""
        memory = "" if self.memory == SHIPPED else f"-{self.memory}"
        return f"{task}{memory}" + ("" if self.number == 1 else f"-training{self.number}")

    def places(self, places: Mapping[str, str]) -> dict[str, str]:
        """Places with this training's own."""
        return {**places, "loop": f"{places['runs']}/slowfast_loop/{self.name(places['task'])}"}

    def stage(self, stage: Stage) -> Stage:
        """A stage of the loop for this training: its memory, and a seed of its own."""
        seeds = [int(o.removeprefix("seed=")) for o in stage.options if o.startswith("seed=")] or [0]
        others = [o for o in stage.options if not o.startswith("seed=")]
        seed = seeds[-1] + SEEDS_APART * (self.number - 1)
        return replace(stage, options=(*others, f"memory={self.memory}", f"seed={seed}"))


def rows_of(memories: Sequence[str]) -> list[str]:
    """The planning table's rows on loops with these memories. OptionError for one that has none, or is named twice."""
    from planner.table_rows import MODEL_ROWS  # imports torch, which the usual recipe does without

    have = sorted({row.loop for row in MODEL_ROWS.values() if row.loop} - {SHIPPED})
    if not set(memories) <= set(have) or len(set(memories)) < len(memories):
        raise OptionError(f"memories={list(memories)}: expected some of {', '.join(have)}, each once")
    return [name for name, row in MODEL_ROWS.items() if row.loop in memories]


def further_trainings(cfg: DictConfig) -> list[Training]:
    """The loop's trainings beside the one that is shipped: so many with each further memory, and with its own."""
    numbers = range(1, integer(cfg, "trainings", 1) + 1)
    every = [Training(memory, number) for memory in (SHIPPED, *cfg.memories) for number in numbers]
    further = [training for training in every if training != Training()]
    if cfg.shipped and not further:
        raise OptionError("shipped=true leaves nothing to train; give memories=[first_frame], or trainings=3")
    return further


def loop_weights(trainings: Sequence[Training], places: Mapping[str, str]) -> tuple[str, ...]:
    """The table's options where the loop was trained further; the first training is the one that is shipped."""
    folders = {SHIPPED: [f"{places['weights']}/{places['task']}/world_model-{SHIPPED}"]}
    for training in trainings:
        folders.setdefault(training.memory, []).append(f"{training.places(places)['loop']}/model")
    return tuple(f"loop_weights.{memory}=[{','.join(of)}]" for memory, of in folders.items() if trainings)


def stages_of(cfg: DictConfig, places: Mapping[str, str]) -> list[Stage]:
    """The recipe's stages with their places: what is shipped, the loop's further trainings, the table."""
    trainings = further_trainings(cfg)
    base, stages = recipe_of(cfg)
    rows = rows_of(cfg.memories) if cfg.memories else []
    base = "{weights}/{task}/world_model" if cfg.shipped else base
    places = {**places, "base": base.format_map(places), "rows": "".join(f",{row}" for row in rows)}
    first = [s for s in stages if s.module.startswith(DATA) or not (cfg.shipped or s.module == TABLE)]
    further = [t.stage(s).at(t.places(places)) for t in trainings for s in stages if s.module == LOOP]
    told = loop_weights(trainings, places)
    table = [replace(s, options=(*s.options, *told)) for s in stages if s.module == TABLE]
    own = Training().places(places)
    return [*(s.at(own) for s in first), *further, *(s.at(own) for s in table)]


def commands(cfg: DictConfig) -> list[list[str]]:
    """The command lines of a configuration; started elsewhere than in the repository, the weights' place is
    written out, for it lies there."""
    folder = Path(cfg.runs) / "trial" if cfg.trial else Path()
    places = {"runs": str(folder) if cfg.trial else cfg.runs, "task": cfg.task.name}
    places |= {
        name: str(folder / Path(cfg[name]).name) if cfg.trial else cfg[name] for name in ("data", "weights")
    }
    if cfg.trial and cfg.shipped:
        places["weights"] = cfg.weights
    if Path.cwd() != ROOT:
        mine = cfg.trial and not cfg.shipped
        places["weights"] = str((Path.cwd() if mine else ROOT) / places["weights"])
    processes = integer(cfg, "processes", 1)
    return [stage.command(processes, cfg.trial) for stage in stages_of(cfg, places)]


def run(cfg: DictConfig) -> None:
    lines = commands(cfg)
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
