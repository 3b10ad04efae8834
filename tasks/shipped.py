"""Where the weights of a task lie: a given folder, or the shipped one."""

from __future__ import annotations

from pathlib import Path

from tasks.commands import ROOT, CommandError


def weights_folder(given: str | None, task: str, part: str, memory: str | None = None) -> Path:
    """The folder of one model: the given one, or the one shipped for the task.

    Args:
        given: the folder, or the folder above it, as ``weights/TASK`` is.
        part: ``world_model`` or ``inverse_dynamics``.
        memory: where weights that were finetuned with this memory are shipped, they are taken; a control
            such as ``shuffled temp_lora`` takes those of the memory that it controls.

    Raises:
        CommandError: there is none.
    """
    above = Path(given) if given else ROOT / "weights" / task
    names = [f"{part}-{memory.split()[-1]}", part] if memory else [part]
    folder = next(
        (above / name for name in names if (above / name).is_dir()), above if given else above / part
    )
    if not folder.is_dir():
        what = "is missing" if given else f"is not shipped for task={task}; train it, then give its folder"
        raise CommandError(f"{part} weights: {folder} {what}")
    return folder
