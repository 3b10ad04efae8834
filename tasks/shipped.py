"""Where the weights of a task lie: a given folder, one on the Hub, or the shipped one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tasks.commands import ROOT, CommandError, OptionError
from tasks.files import read_json
from tasks.hub import HubError, hub_name, located


def weights_folder(given: str | None, task: str, part: str, memory: str | None = None) -> Path:
    """The folder of one model: the given one, or the one shipped for the task.

    Args:
        given: the folder, or the folder above it, as ``weights/TASK`` is; or either's Hub id.
        part: ``world_model`` or ``inverse_dynamics``.
        memory: where weights that were finetuned with this memory are shipped, they are taken; a control
            such as ``shuffled temp_lora`` takes those of the memory that it controls.

    Raises:
        CommandError: there is none.
    """
    try:
        above = located(given) if given else ROOT / "weights" / task
    except HubError as error:
        raise HubError(f"{part} weights: {error}") from None
    names = [f"{part}-{memory.split()[-1]}", part] if memory else [part]
    folder = next(
        (above / name for name in names if (above / name).is_dir()), above if given else above / part
    )
    if not folder.is_dir():
        if given:
            what = "is a file; give its folder" if folder.is_file() else "is missing"
        else:
            what = f"is not shipped for task={task}; {_way_to(part, task)}"
        raise CommandError(f"{part} weights: {folder} {what}")
    return folder


def _way_to(part: str, task: str) -> str:
    """How a user comes by weights that are not shipped."""
    give = f"give {'weights' if part == 'world_model' else part}=FOLDER"
    if not (ROOT / "configs" / "recipe" / f"{task}.yaml").is_file():
        return f"train them, then {give}"
    return f"`python -m planner.recipe task={task}` makes them, as `make weights TASK={task}` does; or {give}"


def finetuned_folder(
    task: str, loop: str | None, given: str | None, loop_weights: Mapping[str, str | None]
) -> Path:
    """The world model that a row of a table runs on.

    Args:
        loop: the memory that its weights were finetuned with; None is the base.
        given: the base's folder or Hub id, or None for the shipped one.
        loop_weights: folders or Hub ids by memory; None takes the one beside the base, for the shipped one began with
            the shipped base.

    Raises:
        CommandError: the row needs finetuned weights that are neither given nor beside the base.
        OptionError: what is given is no name of a folder.
    """
    if loop is None:
        return weights_folder(given, task, "world_model")
    if folder := loop_weights.get(loop):
        if not isinstance(folder, str):
            raise OptionError(
                f"loop_weights.{loop}={folder}: expected one folder; planner.evaluate takes several"
            )
        return weights_folder(folder, task, "world_model")
    base = located(given) if given else ROOT / "weights" / task / "world_model"
    beside = (base.parent if base.name == "world_model" else base) / f"world_model-{loop}"
    if not beside.is_dir():
        lacks, same = f"no weights were finetuned with memory={loop}", ""
        if given:
            lacks = f"weights={given} holds no {beside.name}, and what is shipped began with another base"
            same = " with these weights"
        raise CommandError(
            f"{lacks}; run python -m world_model.slowfast_loop task={task} memory={loop}{same}, then give "
            f"loop_weights.{loop}=FOLDER"
        )
    return beside


def shown(folder: Path) -> str:
    """A folder of weights as a reader knows it: below the repository, as a Hub id, or as it is."""
    if folder.is_relative_to(ROOT):
        return str(folder.relative_to(ROOT))
    return hub_name(folder) or str(folder)


def trained_otherwise(folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """The task's options with which the weights in ``folder`` were trained, where they are not those of ``task``.

    Told by the manifest of shipped weights, or by the configuration of the run that made them; empty where neither
    lies beside the folder.
    """
    manifest, run = folder.parent / "manifest.json", folder.parent / "config.yaml"
    told: Any = {}
    if manifest.is_file():
        told = _inside(read_json(manifest), folder.name, "options", "task")
    elif run.is_file():
        told = _inside(OmegaConf.to_container(OmegaConf.load(run)), "task")
    return {key: told[key] for key in task if key in told and told[key] != task[key]}


def _inside(node: Any, *keys: str) -> dict[str, Any]:
    """The dict below the keys; empty where there is none, as in a file of the same name that is not ours."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}
