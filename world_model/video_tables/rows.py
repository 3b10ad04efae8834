"""Which rows each of the paper's video tables has here, and the model that a row runs on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from torch import Tensor

from tasks.commands import CommandError, OptionError
from tasks.shipped import finetuned_folder
from world_model.memory.lora import LoraInjector
from world_model.model import WorldModel
from world_model.sampling import sampling_options
from world_model.text import TextEncoder
from world_model.training import CheckpointError

NEXT, LONG = "next_chunk", "long"
WORDINGS = ("original", "similar", "interpolated", "composed")


@dataclass(frozen=True)
class Row:
    """A row with the world model.

    Attributes:
        label: for people.
        memory: a name in the configuration's ``memories``.
        loop: the memory whose finetuned weights the row runs on; None is the base.
        options: of the memory, over the configuration's.
        sampling_steps: of the diffusion sampler; None is the configuration's.
        single_frame: only the last frame goes in, not the previous chunk ("wo Chunk Input").
        wording: how the actions are said, one of ``WORDINGS``.
    """

    label: str
    memory: str = "none"
    loop: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sampling_steps: int | None = None
    single_frame: bool = False
    wording: str = "original"


VARIANTS = {
    "no_memory": Row("no memory, base"),
    "equal_steps": Row("no memory, as many more training steps as the loop", "none", "none"),
    "first_frame": Row("the first frame as past, finetuned with it", "first_frame", "first_frame"),
    "anchor": Row("appearance anchor (StreamingT2V's), finetuned with it", "anchor", "anchor"),
    "context": Row("longer context, finetuned with it", "context", "context"),
    "retrieval": Row("retrieved frames, finetuned with them", "retrieval", "retrieval"),
    "temp_lora_no_loop": Row("Temp-LoRA without the loop", "temp_lora"),
    "full": Row("Temp-LoRA + slow-fast loop", "temp_lora", "temp_lora"),
}
KINDS = {
    "no_memory": VARIANTS["no_memory"],
    "original_no_loop": Row("original Temp-LoRA, without the loop", "temp_lora_original"),
    "sequence_no_loop": Row(
        "Temp-LoRA without the local learning rule, without the loop", "temp_lora_sequence"
    ),
    "temp_lora_no_loop": VARIANTS["temp_lora_no_loop"],
    "temp_lora_original": Row("original Temp-LoRA, its own loop", "temp_lora_original", "temp_lora_original"),
    "temp_lora_sequence": Row(
        "Temp-LoRA without the local learning rule, its own loop", "temp_lora_sequence", "temp_lora_sequence"
    ),
    "full": VARIANTS["full"],
}
SAID = {
    "original": "the captions of training",
    "similar": "synonyms",
    "interpolated": "halfway between caption and synonym",
    "composed": "two actions in one caption",
}
ADAM = {
    "optimizer": "adam",
    "begins": "theta",
    "steps": 4,
    "timesteps": [600, 1000],
    "draws": "own",
}  # what the rates are of
GRIDS = {  # ranks and learning rates: of table 6 50 times the paper's, of table 8 the paper's
    6: ((16, 32, 64), (5e-2, 5e-3, 5e-4)),
    8: ((16, 32, 64, 128), (1e-3, 5e-4, 1e-4, 5e-5, 1e-5)),
}
BEST = 8  # the table whose grid has the best that was found beside it
VARIED = {3: "full", 5: "full", 6: "temp_lora_no_loop", 8: "temp_lora_no_loop", 9: "full"}


# --- tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes:
        title: what it compares.
        parts: what the videos are: ``next_chunk`` from the true past, ``long`` from the first frame alone.
        rows: its rows, from the configuration and the row of table 1 that it varies.
        by_length: whether figures are also given apart for each length of plan and complexity of scene, and
            rank and rate chosen by it.
        own_data: whether the videos have to be given, for the task's own show nothing of the kind.
    """

    title: str
    parts: tuple[str, ...]
    rows: Callable[[DictConfig, str, Row], dict[str, Row]]
    by_length: bool = False
    own_data: bool = False


def _variants(cfg: DictConfig, name: str, row: Row) -> dict[str, Row]:
    return dict(VARIANTS)


def _kinds(cfg: DictConfig, name: str, row: Row) -> dict[str, Row]:
    """Kinds of Temp-LoRA, and the single frame, with and without the loop."""
    single = {
        f"{n}-single_frame": replace(
            KINDS[n], label=f"{KINDS[n].label}, without chunk input", single_frame=True
        )
        for n in ("temp_lora_no_loop", "full")
    }
    return KINDS | single


def _wordings(cfg: DictConfig, name: str, row: Row) -> dict[str, Row]:
    return {
        name if w == "original" else f"{name}-{w}": replace(row, label=f"{row.label}: {SAID[w]}", wording=w)
        for w in WORDINGS
    }


def _grid(table: int) -> Callable[[DictConfig, str, Row], dict[str, Row]]:
    def rows(cfg: DictConfig, name: str, row: Row) -> dict[str, Row]:
        if not row.memory.startswith("temp_lora"):
            raise OptionError(f"varied={name}: table={table} varies Temp-LoRA's rank and learning rate")
        ranks, rates = GRIDS[table]
        ranks = ranks if cfg.ranks is None else tuple(cfg.ranks)
        rates = rates if cfg.learning_rates is None else tuple(cfg.learning_rates)
        cells = {
            f"{name}-lr_{rate:g}-rank_{rank}": replace(
                row,
                label=f"{row.label}: learning rate {rate:g}, rank {rank}",
                options={**row.options, **ADAM, "learning_rate": rate, "rank": rank, "alpha": rank},
            )
            for rate in rates
            for rank in ranks
        }
        found = {name: replace(row, label=f"{row.label}: the best found, the memory's defaults")}
        return {"no_memory": VARIANTS["no_memory"], **cells, **(found if table == BEST else {})}

    return rows


def _steps(cfg: DictConfig, name: str, row: Row) -> dict[str, Row]:
    return {
        f"{name}-steps_{n}": replace(row, label=f"{row.label}: {n} diffusion steps", sampling_steps=n)
        for n in cfg.steps
    }


TABLES = {
    1: Table("video generation: slow learning, and long videos", (NEXT, LONG), _variants),
    3: Table("what fast learning costs", (), lambda cfg, name, row: {}),
    4: Table("kinds of Temp-LoRA and of input", (LONG,), _kinds),
    5: Table("actions in other words", (NEXT,), _wordings),
    6: Table("rank and learning rate, by complexity of scene", (LONG,), _grid(6), by_length=True),
    7: Table(
        "video generation on own videos (the paper: Walking Tour)", (NEXT, LONG), _variants, own_data=True
    ),
    8: Table("rank and learning rate", (LONG,), _grid(8)),
    9: Table("diffusion steps", (NEXT, LONG), _steps),
    10: Table("consistency on own videos (the paper: TECO-Habitat)", (LONG,), _variants, own_data=True),
}


def positive(values: Sequence[Any], key: str, kind: type) -> None:
    """OptionError unless these are one number or more of that kind, above 0."""
    right = [isinstance(v, int | float) and isinstance(v, kind | int) and v > 0 for v in values]
    if not right or not all(right):
        raise OptionError(f"{key}={list(values)}: expected numbers above 0, at least one")


def table_of(cfg: DictConfig) -> Table:
    """The table that is asked for. Raises OptionError."""
    if cfg.table not in TABLES:
        raise OptionError(
            f"table={cfg.table}: expected {', '.join(map(str, TABLES))}; 2 is planner.evaluate's"
        )
    return TABLES[cfg.table]


def varied_row(cfg: DictConfig) -> tuple[str, Row]:
    """Name and row of table 1 that the table varies. Raises OptionError."""
    name = cfg.varied or VARIED.get(cfg.table, "full")
    if name not in VARIANTS:
        raise OptionError(f"varied={name}: have {', '.join(VARIANTS)}")
    return name, VARIANTS[name]


def rows_of(cfg: DictConfig) -> dict[str, Row]:
    """The rows with the model that the configuration asks for, in order. Raises OptionError."""
    positive(cfg.steps, "steps", int)
    for key, kind in (("ranks", int), ("learning_rates", float)):
        if cfg[key] is not None:
            positive(cfg[key], key, kind)
    have = table_of(cfg).rows(cfg, *varied_row(cfg))
    wanted = list(have) if cfg.rows is None else list(cfg.rows)
    unknown = [name for name in wanted if name not in have]
    if unknown or (have and not wanted):
        raise OptionError(f"rows={wanted}: table={cfg.table} has {', '.join(have) or 'none to choose'}")
    return {name: have[name] for name in have if name in wanted}


# --- models ------------------------------------------------------------------------------------


class RowLeftOut(CommandError):
    """A row that can't be had with the weights that are there, while others can; says what it needs."""


def row_folder(row: Row, cfg: DictConfig) -> Path:
    """Where the row's weights lie.

    Raises:
        RowLeftOut: the row needs finetuned ones, which are neither given nor beside the base.
        CommandError: given ones, or the base's, are missing.
    """
    try:
        return finetuned_folder(cfg.task.name, row.loop, cfg.weights, cfg.loop_weights)
    except CommandError as error:
        if row.loop is None or cfg.loop_weights.get(row.loop):
            raise
        raise RowLeftOut(str(error)) from None


def open_row(row: Row, cfg: DictConfig, chunk_frames: int, device: torch.device) -> WorldModel:
    """The row's world model.

    Raises:
        RowLeftOut: no weights were finetuned for it, or they read a Θ₀ of another rank.
        CommandError: no weights, or those of another chunk length.
    """
    folder = row_folder(row, cfg)
    memory = hydra.utils.instantiate(cfg.memories[row.memory], **row.options)
    sampling = sampling_options(cfg)
    try:
        model = WorldModel.from_pretrained(
            folder,
            memory,
            device,
            **(sampling | ({"sampling_steps": row.sampling_steps} if row.sampling_steps else {})),
            context_frames=chunk_frames + 1 if row.single_frame else None,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        if "rank" not in row.options:
            raise
        raise RowLeftOut(f"{folder} learned to read a Θ₀ of another rank ({error})") from None
    if model.settings.chunk_frames != chunk_frames:
        raise CommandError(
            f"{folder} makes chunks of {model.settings.chunk_frames} frames, task={cfg.task.name} needs "
            f"{chunk_frames}"
        )
    return model


def rank_of(injector: LoraInjector | None) -> dict[str, Any] | None:
    """Rank over full rank: ``{rank, full: [least, most]}`` of the layers that carry Θ; None without Θ."""
    if injector is None:
        return None
    full = sorted(min(x.in_features, x.out_features) for x in injector.layers.values())
    return {"rank": injector.spec.rank, "full": [full[0], full[-1]]}


# --- words -------------------------------------------------------------------------------------


def similar(caption: str, synonyms: Mapping[str, str]) -> str:
    """The caption in other words: each phrase as a whole word, the longest first."""
    for phrase in sorted(synonyms, key=len, reverse=True):
        changed = re.sub(rf"\b{re.escape(phrase)}\b", synonyms[phrase], caption)
        if changed != caption:
            return changed
    return caption


def composed(captions: Sequence[str]) -> tuple[str, ...]:
    """Each pair of consecutive actions as one caption, given for both of their chunks."""
    out = list(captions)
    for k in range(0, len(out) - 1, 2):
        out[k] = out[k + 1] = f"{captions[k]}, then {captions[k + 1]}"
    return tuple(out)


class Halfway:
    """A text encoder that gives the mean of a caption's tokens and those of its rewording."""

    def __init__(self, encoder: TextEncoder, reword: Callable[[str], str]):
        self.encoder, self.reword = encoder, reword
        self.name, self.null = f"halfway {encoder.name}", encoder.null

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(B, n, D)`` float32."""
        return (self.encoder.encode(texts) + self.encoder.encode([self.reword(t) for t in texts])) / 2

    def save_pretrained(self, folder: str | Path) -> None:
        """The encoder beneath."""
        self.encoder.save_pretrained(folder)


def reworded(row: Row, captions: Sequence[str], synonyms: Mapping[str, str]) -> tuple[str, ...]:
    """What the model is told instead of the captions; an interpolation happens in its encoder."""
    if row.wording == "similar":
        return tuple(similar(c, synonyms) for c in captions)
    return composed(captions) if row.wording == "composed" else tuple(captions)
