"""Copies finished models into ``weights/TASK``, or to ``path``, with a manifest that says where they come from.

python -m planner.ship task=cube_return world_model=RUN inverse_dynamics=RUN
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tasks.commands import ROOT, CommandError, main
from tasks.files import read_json, write_json
from tasks.provenance import ORIGIN, commit
from tasks.shipped import weights_folder
from world_model.model import MEMORY, SETTINGS, WRITER

LIMIT_MB = 25
MANIFEST = "manifest.json"
GOES_ON_FROM = ("autoencoder.path", "model.pretrained", "weights")  # options that name an earlier run's model


def training_record(run: Path) -> dict[str, Any]:
    """What a trainer's run directory says of itself: options, held-out figures, and what trained it."""
    metrics = next((p for p in (run / "model" / "metrics.json", run / "metrics.json") if p.is_file()), None)
    if metrics is None:
        raise CommandError(f"{run} holds no finished model (no metrics.json); run its trainer to the end")
    options = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return {"options": options, "held_out": read_json(metrics), "trained_by": passes(run)}


def passes(run: Path) -> list[dict[str, Any]]:
    """The training behind a run's model, first to last: of the runs whose models it went on from, or what the manifest
    says of shipped ones, and its own. Each with how it was started, its steps and its hours."""
    config = OmegaConf.load(run / "config.yaml")
    given = [OmegaConf.select(config, key) for key in GOES_ON_FROM]
    before = [part for folder in given if folder for part in passes_behind(Path(folder))]
    logs = {str(p.parent.relative_to(run)): p for p in sorted(run.rglob("metrics.jsonl"))}
    ends = {name: json.loads(p.read_text().splitlines()[-1]) for name, p in logs.items()}
    seconds = [end.get("seconds") for end in ends.values()]
    own = {
        "started": read_json(run / ORIGIN) if (run / ORIGIN).is_file() else None,
        "steps": {name: end["step"] for name, end in ends.items()},
        "hours": None if None in seconds else round(sum(seconds) / 3600, 2),
    }
    return [*before, own]


def passes_behind(model: Path) -> list[dict[str, Any]]:
    """As :func:`passes`, of a model's folder; nothing where it is neither a run's nor a shipped one."""
    if (model.parent / "config.yaml").is_file():
        return passes(model.parent)
    manifest = model.parent / MANIFEST
    return read_json(manifest).get(model.name, {}).get("trained_by", []) if manifest.is_file() else []


def say_what_is_missing(part: str, record: dict[str, Any], said: str | None) -> None:
    """CommandError unless a part's record, or the option ``trained`` in its place, says what trained it."""
    untold = [p for p in record["trained_by"] if None in (p.get("started", ""), p.get("hours", ""))]
    if said is None and untold:
        raise CommandError(
            f"{part}: a run behind it keeps no {ORIGIN} or no hours, older versions wrote none; say what trained it: "
            f"trained.{part}='commands, hardware, hours'"
        )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources_of(cfg: DictConfig) -> dict[str, Path]:
    """Part of ``weights/TASK`` -> run directory; the loop's results are named by their memory. What is null stays as it
    lies there.

    Raises:
        CommandError: nothing is given.
    """
    loops = {f"world_model-{memory}": run for memory, run in (cfg.slowfast_loop or {}).items() if run}
    given = {"world_model": cfg.world_model, "inverse_dynamics": cfg.inverse_dynamics, **loops}
    if not any(given.values()):
        raise CommandError("nothing to ship; give world_model=, inverse_dynamics= or slowfast_loop.MEMORY=")
    return {part: Path(run) for part, run in given.items() if run}


def forget_origin(folder: Path) -> None:
    """Take the path that a part was opened from out of diffusers' ``config.json`` files."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            write_json(path, config)


def link_what_is_shared(part: Path, base: Path) -> None:
    """Replace folders of ``part`` that hold the same files as the base's by relative links to those."""
    for folder in [f for f in part.iterdir() if f.is_dir()]:
        name = "unet" if folder.name == WRITER else folder.name
        if (base / name).is_dir() and contents(folder) == contents(base / name):
            shutil.rmtree(folder)
            folder.symlink_to(Path("..") / base.name / name)


def contents(folder: Path) -> dict[str, str]:
    """The folder's files and their digests."""
    return {p.name: digest(p) for p in folder.iterdir()}


def keep_whole(part: Path) -> None:
    """Replace links of a part by what they lead to: the base that they lead into is about to be another."""
    for link in [f for f in part.iterdir() if f.is_symlink()]:
        there = link.resolve()
        link.unlink()
        shutil.copytree(there, link)


def kept_records(target: Path, given: Mapping[str, Path]) -> dict[str, Any]:
    """What the manifest in ``target`` says of the parts there that are not given anew."""
    path = target / MANIFEST
    stored = read_json(path) if path.is_file() else {}
    return {
        k: v for k, v in stored.items() if k not in given and isinstance(v, dict) and (target / k).is_dir()
    }


def stage(part: str, source: Path, staged: Path, cfg: DictConfig) -> dict[str, Any]:
    """Copy a run's finished model to ``staged/part``, in place of an older one; what the manifest says of it."""
    model = weights_folder(str(source / "model"), cfg.task.name, part)
    record = training_record(source)
    said = cfg.trained.get(part)
    say_what_is_missing(part, record, said)
    if said:
        record["trained"] = said
    if (settings := model / SETTINGS).is_file():  # as shipped; options are those of the training
        record["settings"] = read_json(settings)
    if (memory := model / MEMORY).is_file():
        record["memory"] = read_json(memory)
    shutil.rmtree(staged / part, ignore_errors=True)
    shutil.copytree(model, staged / part, ignore=shutil.ignore_patterns("metrics.json"))
    forget_origin(staged / part)
    if part.startswith("world_model-"):
        link_what_is_shared(staged / part, staged / "world_model")
    return record


def replaced(target: Path) -> Path:
    """Where ``target`` lies while another folder takes its place."""
    return target.with_name(f".{target.name}.old.tmp")


def put(staged: Path, target: Path) -> None:
    """Rename a finished folder to ``target``, in place of an older one."""
    old = replaced(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staged.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def run(cfg: DictConfig) -> None:
    target = ROOT / cfg.path
    staged = target.with_name(f".{target.name}.tmp")
    sources = sources_of(cfg)
    shutil.rmtree(staged, ignore_errors=True)
    if not target.exists() and replaced(target).is_dir():  # killed between two renames
        replaced(target).rename(target)
    manifest = {"task": cfg.task.name, "commit": commit() or "", **kept_records(target, sources)}
    try:
        if target.is_dir():
            shutil.copytree(target, staged, symlinks=True)
        kept = [p for p in staged.glob("world_model-*") if p.name not in sources]
        for part in kept:
            keep_whole(part)
        for name, source in sources.items():
            manifest[name] = stage(name, source, staged, cfg)
        for part in kept:
            link_what_is_shared(part, staged / "world_model")
        files = sorted(p for p in staged.rglob("*") if p.is_file() and p.name != MANIFEST)
        size = sum(p.stat().st_size for p in files) / 1e6
        if size > LIMIT_MB:
            raise CommandError(
                f"{target} would take {size:.1f} MB; a task's weights must stay under {LIMIT_MB} MB. "
                "Nothing was changed"
            )
        manifest["sha256"] = {str(p.relative_to(staged)): digest(p) for p in files}
        write_json(staged / MANIFEST, manifest)
        put(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    print(f"{target}: {len(files)} files, {size:.1f} MB")


if __name__ == "__main__":
    main("ship", run)
