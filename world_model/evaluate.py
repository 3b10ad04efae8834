"""The paper's video tables at the scale that is here: the same held-out videos in every row.

    python -m world_model.evaluate task=cube_return table=1 clips=50

Every figure stands beside its floor, its ceiling and videos that must rank below it. Each finished row lies
in the run directory, which all tables of the same videos share; interrupted, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import DictConfig

from tasks import Task
from tasks.commands import ROOT, CommandError, OptionError, RunDir, integer, main
from tasks.files import kept_json, sha256_of, write_json, write_text
from tasks.following import said
from tasks.provenance import command_line, commit
from tasks.shipped import shown, weights_folder
from tasks.versions import Versions
from world_model.data.footage import inlined
from world_model.device import pick_device
from world_model.model import WorldModel, fingerprint
from world_model.video_metrics.features import I3D, I3D_FILE, I3D_ID, FrameExtractor, sha256
from world_model.video_metrics.pixels import Lpips
from world_model.video_tables.adversaries import ADVERSARIES, REFERENCES, Autoencoded, doubts, reference_row
from world_model.video_tables.choice import by_set, chosen_rows
from world_model.video_tables.clips import Clips, open_clips
from world_model.video_tables.costs import costs
from world_model.video_tables.following import ReadBack
from world_model.video_tables.imagine import hardware, imagine_all, load
from world_model.video_tables.judge import Judge
from world_model.video_tables.metrics import FIDELITY
from world_model.video_tables.page import section
from world_model.video_tables.plots import draw_costs, draw_intervals, draw_over_time, draw_strip
from world_model.video_tables.rows import (
    LONG,
    NEXT,
    VARIANTS,
    Row,
    RowLeftOut,
    Table,
    open_row,
    rank_of,
    row_folder,
    rows_of,
    similar,
    table_of,
    varied_row,
)

WORDS = 5  # the table that tells actions in other words
SHARED = (  # options that no video depends on: which rows there are, how they are made, measured or shown
    "device", "table", "rows", "varied", "ranks", "learning_rates", "steps", "loop_weights", "batch_size", "results",
    "features", "i3d", "lpips", "cuts", "resamples",
)  # fmt: skip


class Bench:
    """The videos and the instruments of a run, opened when they are first needed.

    Attributes:
        left_out: a line for each metric or row that is missing, and why.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg, self.left_out = cfg, list[str]()
        # Of a folder: rows share weights, which have gigabytes at full size.
        self.version = cache(fingerprint)
        self.task: Task = hydra.utils.instantiate(cfg.task)
        self.device = pick_device(cfg.device)

    @cached_property
    def features(self) -> FrameExtractor:
        """Of frames."""
        made: FrameExtractor = hydra.utils.instantiate(self.cfg.features, device=self.device)
        return made

    @cached_property
    def i3d(self) -> I3D | None:
        """FVD's network, where it is given."""
        if self.cfg.i3d is None:
            self.leave_out(f"FVD: give i3d=PATH of {I3D_FILE}, which the Hub id {I3D_ID} has")
            return None
        return I3D(self.cfg.i3d, self.device)

    @cached_property
    def lpips(self) -> Lpips | None:
        """The metric, where its backbone is there; one that was given must be."""
        try:
            return Lpips(self.cfg.lpips.net, self.cfg.lpips.backbone)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            if self.cfg.lpips.backbone is not None:
                raise CommandError(str(error)) from None
            self.leave_out(f"LPIPS: {error}")
            return None

    @cached_property
    def reader(self) -> ReadBack | None:
        """Who reads actions off videos, where one is shipped; one that was given must be there."""
        try:
            folder = weights_folder(self.cfg.inverse_dynamics, self.task.name, "inverse_dynamics")
        except CommandError as error:
            self._cannot_read(str(error))
            return None
        reader = hydra.utils.instantiate(self.cfg.reader)(folder, self.device)
        digest = self.version(folder)
        return ReadBack(reader, f"inverse dynamics {shown(folder)} ({digest})", digest)

    @cached_property
    def read_back(self) -> ReadBack | None:
        """The reader, where it reads these videos; one that was given must."""
        if self.reader and (why := self.reader.misfit(self.clips.truth, self.clips.action_names)):
            self._cannot_read(why)
            return None
        return self.reader

    def _cannot_read(self, why: str) -> None:
        if self.cfg.inverse_dynamics is not None:
            raise CommandError(why)
        self.leave_out(f"Actions followed: {why}; inverse_dynamics=FOLDER reads them back")

    def leave_out(self, line: str) -> None:
        """Say once that something is missing."""
        if line not in self.left_out:
            self.left_out.append(line)
            print(f"left out: {line}", flush=True)

    def check(self) -> None:
        """Open what needs no videos: an option that names nothing is said before any is recorded."""
        _ = self.features, self.i3d, self.lpips, self.reader

    @cached_property
    def measured_by(self) -> str:
        """Digest of the instruments and their options, by which figures are kept."""
        lpips, backbone = self.lpips, self.cfg.lpips.backbone
        told = {
            "features": [self.features.name, self.features.weights_sha256],
            "i3d": self.i3d and self.i3d.weights_sha256,
            "lpips": lpips and [lpips.name, backbone and sha256(Path(backbone))],
            "cuts": dict(self.cfg.cuts),
            "resamples": self.cfg.resamples,
            "reader": self.read_back and self.read_back.version,
        }
        return sha256_of(told)[:8]

    def open(self, run_dir: RunDir) -> Bench:
        """Know where the videos are kept."""
        self.run_dir = run_dir
        return self

    @cached_property
    def base(self) -> WorldModel:
        """The base model: its autoencoder is the ceiling's."""
        return open_row(VARIANTS["no_memory"], self.cfg, self.task.chunk_frames, self.device)

    @cached_property
    def clips(self) -> Clips:
        """The true videos."""
        run_dir = self.run_dir if self.cfg.data is None else None
        clips = open_clips(self.cfg, self.task, run_dir, self.base.settings.context_frames)
        height, width = clips.truth[0].frames.shape[1:3]
        factor = self.base.autoencoder.factor
        if height % factor or width % factor:
            raise CommandError(
                f"frames of {width} × {height} px: the model takes multiples of {factor}; change env.image_size"
            )
        return clips

    @cached_property
    def judge(self) -> Judge:
        """All metrics."""
        cfg = self.cfg
        return Judge(self.clips, self.features, self.i3d, self.lpips, cfg.cuts, cfg.resamples, self.read_back)

    @cached_property
    def autoencoded(self) -> Autoencoded:
        """The true videos through the base's autoencoder and back."""
        autoencoder = self.base.autoencoder
        return Autoencoded(self.clips, lambda frames: autoencoder.decode(autoencoder.encode(frames)))


# --- rows --------------------------------------------------------------------------------------


def made_in(bench: Bench, kind: str, name: str, row: Row) -> Path:
    """The folder of what a row's weights make. Raises what :func:`row_folder` does."""
    made = Versions(None, (bench.version(row_folder(row, bench.cfg)),))
    return bench.run_dir / kind / f"{name}{made.key}"


def figures_file(bench: Bench, part: str, name: str, row: Row) -> Path:
    """Where a row's figures are kept, by its weights and by what measures it. Raises what :func:`row_folder`
    does."""
    made = made_in(bench, f"finished/{part}", name, row)
    return made.with_name(f"{made.name}-{bench.measured_by}.json")


def was_made(bench: Bench, part: str, name: str) -> bool:
    """Whether a row is finished with some weights."""
    return any((bench.run_dir / "finished" / part).glob(f"{name}-*.json"))


def reference_rows(bench: Bench, part: str) -> dict[str, dict[str, Any]]:
    """Floor, ceiling and adversaries of a part, which the base's autoencoder shows; but for the frozen ones the parts
    share them."""
    rows = {}
    for name in (*REFERENCES, *ADVERSARIES):
        anew = name == "frozen" and part == NEXT
        path = figures_file(
            bench, f"references_{NEXT}" if anew else "references", name, VARIANTS["no_memory"]
        )

        def make(name: str = name, anew: bool = anew) -> dict[str, Any] | None:
            print(f"row {name}", flush=True)
            chunk = bench.task.chunk_frames if anew else None
            return reference_row(name, bench.clips, bench.judge, chunk, bench.autoencoded)

        row = kept_json(path, make)
        if row is not None:
            rows[name] = row
        else:
            bench.leave_out(f"row {name}: there are no such videos for these clips")
    return rows


def model_row(bench: Bench, name: str, row: Row, part: str) -> dict[str, Any]:
    """One row with the world model, resumed after its last finished batch."""
    cfg, folder = bench.cfg, made_in(bench, f"videos/{part}", name, row)
    model = open_row(row, cfg, bench.task.chunk_frames, bench.device)
    print(f"row {name}, {part.replace('_', ' ')}", flush=True)
    made = imagine_all(model, row, part, bench.clips.truth, cfg.synonyms, folder, cfg.batch_size)
    anew = bench.task.chunk_frames if part == NEXT else None
    measured = bench.judge.measure({i: m.frames for i, m in enumerate(made)}, chunk_frames=anew)
    effects = [m.effect for m in made if m.effect]
    for record, imagined in zip(measured["clips"], made, strict=True):
        record |= {"seconds": imagined.seconds, "effect": list(imagined.effect)}
    return {
        "label": row.label,
        "kind": "model",
        "videos": str(folder.relative_to(bench.run_dir.path)),
        "memory": model.memory.name,
        "options": dict(row.options),
        "settings": asdict(model.settings),
        "weights": f"{shown(row_folder(row, cfg))} ({model.version})",
        "rank": rank_of(model.injector),
        "seconds_per_clip": float(np.mean([m.seconds for m in made])),
        "hardware": " and ".join(dict.fromkeys(m.hardware or "unrecorded hardware" for m in made)),
        "effect": [float(np.mean([e[k] for e in effects])) for k in range(min(map(len, effects), default=0))],
        **measured,
    }


def part_rows(
    bench: Bench, part: str, rows: dict[str, Row], wanted: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The rows of one part: those that are asked for, and those that are finished already."""
    found = reference_rows(bench, part)
    for name, row in rows.items():
        if name not in wanted and not was_made(bench, part, name):
            continue
        try:
            path = figures_file(bench, part, name, row)
            if name in wanted or path.is_file():
                kept = kept_json(path, partial(model_row, bench, name, row, part))
                found[name] = kept | {"label": row.label}  # tables that share a row call it otherwise
        except RowLeftOut as error:
            if name in wanted:
                bench.leave_out(f"row {name}: {error}")
    return found if part == LONG else fidelity_alone(found)


def fidelity_alone(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of next chunks: joined they are no continuous video, whose cuts and revisits would mean anything."""
    kept = {}
    for name, row in rows.items():
        if figures := {k: v for k, v in row["figures"].items() if k in FIDELITY}:
            kept[name] = {k: v for k, v in row.items() if k != "injected"} | {"figures": figures}
    return kept


# --- the command -------------------------------------------------------------------------------


def provenance(bench: Bench) -> dict[str, Any]:
    """What the figures need beside them."""
    cfg = bench.cfg
    seeds = [c.seed for c in bench.clips.truth]
    source = f"data={cfg.data}" if cfg.data else f"held-out layouts {min(seeds)} to {max(seeds)}"
    lengths = sorted({len(c.frames) - 1 for c in bench.clips.truth})
    return {
        "command": command_line("world_model.evaluate"),
        "commit": commit() or "unknown",
        "hardware": hardware(bench.device),
        "clips": len(seeds),
        "seed": cfg.seed,
        "seeds": seeds,
        "source": source,
        "frames": " or ".join(map(str, lengths)),
    }


def instruments(bench: Bench) -> dict[str, str]:
    """What measured, with versions, settings and the sha256 of weights."""
    torchmetrics = f"torchmetrics {version('torchmetrics')}, values 0 to 255, nothing resized"
    out = {
        "features": f"{bench.features.name}, weights {bench.features.weights_sha256[:12]}",
        "PSNR and SSIM": torchmetrics,
        "SCuts": bench.judge.detector,
    }
    if bench.lpips is not None:
        out["LPIPS"] = f"{bench.lpips.name}, torchmetrics {version('torchmetrics')}"
    if bench.i3d is not None:
        out["FVD"] = (
            f"{bench.i3d.name}, weights {bench.i3d.weights_sha256[:12]}, {bench.judge.shortest} frames a clip"
        )
    if (read_back := bench.read_back) is not None:
        out["Actions followed"] = f"{read_back.name}: {said(read_back.reader.spec)}"
    return out


def publish(bench: Bench, table: Table, parts: dict[str, Any], measured_costs: dict[str, Any] | None) -> Path:
    """Write ``result.json``, ``table.md`` and the plots; returns their folder."""
    cfg = bench.cfg
    folder = bench.run_dir / f"table_{cfg.table}"
    result = {
        "table": cfg.table,
        "title": table.title,
        "task": bench.task.name,
        "by_length": table.by_length,
        "provenance": provenance(bench),
        "instruments": instruments(bench) if parts else {},
        "left_out": bench.left_out,
        "parts": parts,
        "costs": measured_costs,
    }
    write_json(folder / "result.json", result)
    if cfg.results is not None:
        seed = f"_seed{cfg.seed}" if cfg.seed else ""
        write_json(ROOT / cfg.results / f"video_{bench.task.name}_table{cfg.table}{seed}.json", result)
    for part, measured in parts.items():
        draw_intervals(folder / f"{part}.png", measured["rows"])
        draw_over_time(folder / f"{part}_over_time.png", measured["rows"])
        draw_strip(folder / f"{part}_frames.png", first_videos(bench, measured["rows"]))
    if measured_costs is not None:
        draw_costs(folder / "costs.png", measured_costs)
    write_text(folder / "table.md", section(result))
    return folder


def first_videos(bench: Bench, rows: dict[str, Any]) -> dict[str, np.ndarray]:
    """The truth's and every model row's frames of the first clip."""
    clip = bench.clips.truth[0]
    shown = {"truth": clip.frames[1:]}
    kept = {name: bench.run_dir / row["videos"] for name, row in rows.items() if "videos" in row}
    for name, folder in kept.items():
        if (file := folder / f"{clip.seed}.npz").is_file():
            shown[name] = load(file).frames
    return shown


def metrics_line(bench: Bench) -> str:
    """Which instruments measure these videos; those that don't are said, too."""
    parts = (bench.features, bench.i3d, bench.lpips, bench.read_back)
    found = [part and part.name for part in parts]
    return ", ".join(name for name in found if name)


def check(cfg: DictConfig, table: Table) -> None:
    """OptionError for a value that an option can't take."""
    if table.own_data and cfg.data is None:
        raise OptionError(f"table={cfg.table} is of own videos: give data=FOLDER, see docs/own_data.md")
    for key, minimum in (("clips", 2), ("seed", 0), ("batch_size", 1), ("resamples", 1)):
        integer(cfg, key, minimum)
    if cfg.frames is not None:
        integer(cfg, "frames", 1)


def run(cfg: DictConfig) -> None:
    table, rows = table_of(cfg), rows_of(cfg)
    cfg.data = inlined(cfg.data)
    check(cfg, table)
    for row in rows.values():
        hydra.utils.instantiate(cfg.memories[row.memory], **row.options)  # a wrong option is said at once
    whole = cfg.copy()
    whole.rows = None
    row_folder(VARIANTS["no_memory"], cfg)
    bench = Bench(cfg)
    if cfg.frames is not None and cfg.frames < bench.task.chunk_frames:
        raise OptionError(f"frames={cfg.frames}: a chunk has {bench.task.chunk_frames}")
    if table.parts:
        bench.check()
    base = bench.base  # wrong weights, sampling options or data leave no run directory behind
    truth = None if cfg.data is None else {"data": bench.clips.fingerprint()}
    bench.open(RunDir.open("evaluate_video", cfg, ignore=SHARED, versions=truth))
    header = {
        "table": f"{cfg.table}, {table.title}",
        "task": bench.task.name,
        "videos": f"{cfg.clips} of "
        + (f"data={cfg.data}" if cfg.data else f"{bench.task.name}'s held-out layouts"),
        "base": f"{shown(row_folder(VARIANTS['no_memory'], cfg))} ({base.version})",
        "device": f"{bench.device}, {torch.get_num_threads()} threads",
        "run": str(bench.run_dir),
    }
    print("\n".join(f"{k:>9}  {v}" for k, v in header.items()), flush=True)
    # metrics_line asks the videos, which it records if need be
    metrics = metrics_line(bench) if table.parts else "seconds and peak memory"
    print(f"  metrics  {metrics}", flush=True)
    parts: dict[str, Any] = {}
    if cfg.table == WORDS:
        say_unchanged(bench)
    for part in table.parts:
        found = part_rows(bench, part, rows_of(whole), list(rows))
        if table.by_length:
            found |= chosen_rows(found)
            found = {n: row | {"by_set": by_set(row["clips"])} for n, row in found.items()}
        parts[part] = {"rows": found, "doubts": [asdict(d) for d in doubts(found)]}
        if part == LONG and not any("src" in r["figures"] for r in found.values()):
            bench.leave_out(
                f"SRC: not applicable, the videos of task={bench.task.name} show no place again from the same view "
                f"(path_retrace with task.way_back=backward does)"
            )
    folder = publish(bench, table, parts, None if table.parts else measured_costs(bench))
    print(f"\n{(folder / 'table.md').read_text()}\n{folder}")


def say_unchanged(bench: Bench) -> None:
    """Say which captions no synonym changes: those are told in the words of training, after all."""
    captions = {c for clip in bench.clips.truth for c in clip.captions}
    if same := sorted(c for c in captions if similar(c, bench.cfg.synonyms) == c):
        bench.leave_out(
            f"synonyms of {len(same)} of {len(captions)} captions, such as {same[0]!r}: give synonyms.PHRASE=WORDS"
        )


def measured_costs(bench: Bench) -> dict[str, Any]:
    """Table 3, kept in the run directory by the hardware that it was measured on."""
    name, row = varied_row(bench.cfg)
    path = made_in(bench, "costs", name, row) / f"costs-{sha256_of(hardware(bench.device))[:8]}.json"
    plain = {"measure_effect": False} if row.memory.startswith("temp_lora") else {}
    row = replace(row, options={**row.options, **plain})
    model = open_row(row, bench.cfg, bench.task.chunk_frames, bench.device)
    return kept_json(path, lambda: costs(model, bench.clips.truth))


if __name__ == "__main__":
    main("evaluate_video", run)
