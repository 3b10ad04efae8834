"""Looks at a folder of own data before training on it.

    python -m world_model.data inspect PATH
    python -m world_model.data inspect PATH fps=4 image_size=64

Says what is in it and what is done to its frames, draws a contact sheet, and lists what is wrong: the exit code
is 1 then.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from tasks.commands import CommandError, OptionError, integer, main, task_words
from world_model.data.footage import DataOptions, TakeEpisodes, open_source, target
from world_model.data.inspection import inspect, write_sheet

USAGE = "python -m world_model.data inspect PATH key=value …"


def sheet_of(path: Path) -> Path:
    """Where a folder's contact sheet goes by default."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return Path("runs/data") / f"{path.resolve().name}-{digest}.png"


def quoted(text: str) -> str:
    """A value as an option's text gives it: in quotes where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII)
    return text if plain else QuotedString(text, Quote.single).with_quotes()


def training_command(path: Path, cfg: DictConfig) -> str:
    """What to type to train on a folder as it was inspected."""
    given = {k: cfg[k] for k in ("fps", "image_size", "clip_chunks") if cfg[k] is not None}
    data = quoted(str(path))
    if given or cfg.camera:
        camera = f", camera: {quoted(str(cfg.camera))}" if cfg.camera else ""
        parts = [f"sources: [{{path: {data}{camera}}}]", *(f"{k}: {v}" for k, v in given.items())]
        data = f"{{{', '.join(parts)}}}"
    return f"python -m world_model.pretrain {task_words(cfg)} {shlex.quote(f'data={data}')}"


def run(path: Path, cfg: DictConfig) -> None:
    """Inspect one folder."""
    for key in ("image_size", "clip_chunks"):
        if cfg[key] is not None:
            integer(cfg, key, 1)
    given = {"fps": cfg.fps, "image_size": cfg.image_size, "clip_chunks": cfg.clip_chunks}
    options = DataOptions.of({"sources": [{"path": str(path), "camera": cfg.camera}], **given})
    chunk_frames = hydra.utils.instantiate(cfg.task).chunk_frames
    source = open_source(path, cfg.camera)
    part = TakeEpisodes(source, *target(options, source), chunk_frames, options.clip_chunks)
    found = inspect(source, part)
    print("\n".join((f"{path}", *found.lines)))
    if found.sheet is not None:
        sheet = Path(cfg.sheet) if cfg.sheet else sheet_of(path)
        write_sheet(found.sheet, sheet)
        print(f"sheet     {sheet}")
    if not found.wrong:
        print(f"wrong     nothing\ntrain on it: {training_command(path, cfg)}")
        return
    print(f"wrong     {len(found.wrong)}:", *(f"          {line}" for line in found.wrong), sep="\n")
    raise CommandError(f"{path}: {len(found.wrong)} things are wrong; training would stop at the first")


def misused(cfg: DictConfig) -> None:
    """What was given names no folder. Raises OptionError."""
    raise OptionError(f"expected {USAGE}")


def start(argv: list[str]) -> None:
    """The word ``inspect``, a folder, then options."""
    if {"-h", "--help"} & set(argv):
        main("data", partial(run, Path()), ["--help"])
    if len(argv) < 2 or argv[0] != "inspect":
        main("data", misused, [])
    main("data", partial(run, Path(argv[1])), argv[2:])


if __name__ == "__main__":
    start(sys.argv[1:])
