"""Makes a task's weights: runs the commands of ``configs/recipe/TASK.yaml``, in order.

    python -m planner.recipe task=path_retrace

Each of them goes on where it was stopped, so the same command goes on with the whole, and a stage that is
finished says so. ``show=true`` prints the commands, ``trial=true`` runs each in a few steps.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from tasks.commands import ROOT, CommandError, integer, main, plain

SHARE = ("world_model.pretrain", "world_model.slowfast_loop")  # what several processes do together


@dataclass(frozen=True)
class Stage:
    """One command of a recipe; ``{data}``, ``{runs}``, ``{weights}`` and ``{task}`` stand for themselves.

    Attributes:
        module: what ``python -m`` runs.
        options: of the command, without ``task=``.
        trial: further ones that make it short.
    """

    module: str
    options: tuple[str, ...]
    trial: tuple[str, ...]

    def command(self, places: Mapping[str, str], processes: int, trial: bool) -> list[str]:
        """The command line, without the interpreter. Raises CommandError for a place that is none."""
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        given = (*self.options, *(self.trial if trial else ()))
        try:
            options = [text.format_map(places) for text in ("task={task}", *given)]
        except (KeyError, ValueError, IndexError) as error:
            raise CommandError(
                f"the recipe's stage {self.module} names the place {error}; have {', '.join(places)}"
            ) from None
        return ["-m", *(launcher if processes > 1 and self.module in SHARE else ()), self.module, *options]


def stages_of(cfg: DictConfig) -> list[Stage]:
    """The task's recipe.

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


def commands(cfg: DictConfig) -> list[list[str]]:
    """The command lines of a configuration; started elsewhere than in the repository, the weights' place is
    written out, for it lies there."""
    folder = Path(cfg.runs) / "trial" if cfg.trial else Path()
    places = {"runs": str(folder) if cfg.trial else cfg.runs, "task": cfg.task.name}
    places |= {
        name: str(folder / Path(cfg[name]).name) if cfg.trial else cfg[name] for name in ("data", "weights")
    }
    if Path.cwd() != ROOT:
        places["weights"] = str((Path.cwd() if cfg.trial else ROOT) / places["weights"])
    return [s.command(places, integer(cfg, "processes", 1), cfg.trial) for s in stages_of(cfg)]


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
