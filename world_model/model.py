"""The world model: frames and subgoals in, imagined chunks out, memory in between (Algorithm 1a).

    rollout = model.start(frames, seeds)
    rollout, chunk = model.imagine(rollout, subgoals)
    rollout = model.remember(rollout, chunk)

The model holds no episode: all that an episode needs is in its :class:`Rollout`, a value.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet3DConditionModel
from torch import Tensor, nn

from tasks import Subgoal
from tasks.files import write_json
from tasks.hub import HubError, located
from world_model.autoencoder import FrameAutoencoder
from world_model.diffusion import PASSES, Announced, Diffusion
from world_model.memory.adapter import load_theta0, save_theta0, write_safetensors
from world_model.memory.base import AnyMemory, Denoiser, Sizes, WritesItsWay
from world_model.memory.fast_learning import FastLearning
from world_model.memory.history import episode_folder, save_chunk
from world_model.memory.lora import LoraInjector, LoraWeights
from world_model.memory.none import NoMemory
from world_model.memory.oracle import Oracle
from world_model.opening import open_network, silence
from world_model.text import ClipTextEncoder, SentenceEncoder, TextEncoder
from world_model.training import CheckpointError, generator, read_safetensors
from world_model.unet import checkpoint_layers, prepared, with_mask_channel

SETTINGS, THETA0, WRITER = "world_model.json", "theta0.safetensors", "writer"
MEMORY, MODULE = "memory.json", "memory.safetensors"
NOISE_STREAM, MEMORY_STREAM = 1, 2


@dataclass(frozen=True)
class Settings:
    """How the model is used.

    Attributes:
        name: of the configuration it was trained from.
        chunk_frames: f_g, new frames a chunk.
        context_frames: f_p + f_g at most.
        sampling_steps: of DPM-Solver++.
        guidance: past and text scales (Appendix C.1: 2 and 5 for ModelScope).
        theta_in: guidance passes that see the memory's weights.
        gradient_checkpointing: compute a layer's inside again for the backward pass, in slow and in fast
            learning: less memory, more time.
    """

    name: str = "modelscope"
    chunk_frames: int = 16
    context_frames: int = 32
    sampling_steps: int = 20
    guidance: tuple[float, float] = (2.0, 5.0)
    theta_in: tuple[str, ...] = PASSES
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for field in ("guidance", "theta_in"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        unknown = set(self.theta_in) - set(PASSES)
        if unknown:
            raise ValueError(f"theta_in: unknown passes {sorted(unknown)}; have {', '.join(PASSES)}")
        if len(self.guidance) != 2 or self.sampling_steps < 1:
            raise ValueError(
                f"guidance={list(self.guidance)}, sampling_steps={self.sampling_steps}; expected two scales "
                "(past, text) and at least 1 step"
            )
        if not 1 <= self.chunk_frames < self.context_frames:
            raise ValueError(
                f"chunk_frames={self.chunk_frames} must be below context_frames={self.context_frames}"
            )


@dataclass(frozen=True)
class Rollout:
    """B episodes in progress.

    Attributes:
        seeds: one per episode; with ``index`` they fix every random draw.
        index: chunks so far.
        past: ``(B, f_p, C, h, w)`` clean latents of the last frames.
        frames: ``(B, H, W, 3)`` uint8, the last frame as decoded or observed.
        memory: the memory's state.
    """

    seeds: tuple[int, ...]
    index: int
    past: Tensor
    frames: np.ndarray
    memory: Any

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class Chunk:
    """What was imagined for one subgoal of each episode.

    Attributes:
        subgoals: captions, one per episode.
        latents: ``(B, F, C, h, w)``.
        frames: ``(B, F, H, W, 3)`` uint8.
    """

    subgoals: tuple[str, ...]
    latents: Tensor
    frames: np.ndarray


class WorldModel:
    """Autoencoder, text encoder, diffusion UNet and a memory.

    Args:
        writer: the UNet at whose weights fast learning takes its gradients; None is the UNet itself. Slow
            learning then changes how Θ is read, but not what is written; see ``docs/memory.md``.
    """

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        text: TextEncoder,
        unet: UNet3DConditionModel,
        scheduler: DPMSolverMultistepScheduler,
        settings: Settings,
        memory: AnyMemory | None = None,
        theta0: LoraWeights | None = None,
        version: str = "untrained",
        writer: UNet3DConditionModel | None = None,
    ):
        self.autoencoder, self.text, self.version = autoencoder, text, version
        self.unet, self.writer = with_mask_channel(unet, autoencoder.channels), writer
        self.settings = settings
        width, takes = text.null.shape[-1], unet.config.cross_attention_dim
        if width != takes:
            raise ValueError(f"text tokens are {width} wide, the UNet's cross_attention_dim is {takes}")
        self.diffusion = Diffusion(self.unet, scheduler, text.null)
        self.writing = Diffusion(writer, scheduler, text.null) if writer else self.diffusion
        self.use_memory(memory or cast(AnyMemory, NoMemory()), theta0)

    @property
    def settings(self) -> Settings:
        """How the model is used."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        for unet in filter(None, (self.unet, self.writer)):
            checkpoint_layers(unet, settings.gradient_checkpointing)

    def use_memory(self, memory: AnyMemory, theta0: LoraWeights | None = None) -> None:
        """Attach another memory; its Θ₀ is the given one, else drawn from seed 0. A memory's own module
        starts untrained; its parameters ask for gradients, for whoever trains them."""
        self.memory, self.theta0 = memory, theta0
        self.injector = LoraInjector(self.unet, memory.spec) if memory.spec else None
        if self.injector is not None:
            self.theta0 = (theta0 or self.injector.initial()).to(self.device)
        sizes = Sizes(self.autoencoder.channels, self.text.null.shape[-1], self.past_frames)
        writing = LoraInjector(self.writer, memory.spec) if memory.spec and self.writer else self.injector
        memory.bind(writing, self.theta0, sizes)
        if memory.module is not None:
            memory.module.to(self.device, self.unet.dtype)

    def without_memory(self) -> WorldModel:
        """The same networks, shared and not copied, without a memory."""
        scheduler = self.diffusion.scheduler
        return WorldModel(
            self.autoencoder, self.text, self.unet, scheduler, self.settings, version=self.version
        )

    def keep_writing(self) -> None:
        """From now on fast learning takes its gradients at the weights as they are, or as they were when
        this was called before, whatever becomes of Φ."""
        if self.writer is None:
            writer = prepared(copied(self.unet, self.unet.dtype)).eval().requires_grad_(False)
            checkpoint_layers(writer, self.settings.gradient_checkpointing)
            self._write_with(writer)

    def write_with_core(self) -> None:
        """From now on fast learning takes its gradients at Φ, whatever becomes of it, as Algorithm 1b has it."""
        if self.writer is not None:
            self._write_with(None)

    def _write_with(self, writer: UNet3DConditionModel | None) -> None:
        scheduler = self.diffusion.scheduler
        self.writer = writer
        self.writing = Diffusion(writer, scheduler, self.text.null) if writer else self.diffusion
        if self.memory.spec:
            self.use_memory(self.memory, self.theta0)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def past_frames(self) -> int:
        """f_p once enough frames were seen."""
        return self.settings.context_frames - self.settings.chunk_frames

    # --- Algorithm 1a --------------------------------------------------------------------------

    def start(self, frames: np.ndarray, seeds: Sequence[int]) -> Rollout:
        """Begin B episodes (line 1): encode ``(B, H, W, 3)`` uint8 frames, reset the memory."""
        if len(frames) != len(seeds):
            raise ValueError(f"{len(frames)} frames but {len(seeds)} seeds; expected one each")
        past = self.autoencoder.encode(frames)[:, None]
        return Rollout(tuple(seeds), 0, past, np.asarray(frames), self.memory.reset(len(seeds)))

    @property
    def foresees(self) -> bool:
        """Whether the memory must be told how every chunk should end: :meth:`foresee`."""
        return isinstance(self.memory, Oracle)

    def foresee(self, rollout: Rollout, ends: np.ndarray) -> Rollout:
        """Tell memory=oracle how the chunks of B episodes should end: ``(B, n, H, W, 3)`` uint8."""
        latents = self.autoencoder.encode(ends.reshape(-1, *ends.shape[2:])).unflatten(0, ends.shape[:2])
        return self.foresee_latents(rollout, latents)

    def foresee_latents(self, rollout: Rollout, ends: Tensor) -> Rollout:
        """:meth:`foresee` on latents ``(B, n, C, h, w)``."""
        return replace(rollout, memory=cast(Oracle, self.memory).told(ends))

    def imagine(
        self,
        rollout: Rollout,
        subgoals: Sequence[Subgoal | str],
        progress: Callable[[int, int], None] | None = None,
        on_frame: Callable[[int, np.ndarray], None] | None = None,
    ) -> tuple[Rollout, Chunk]:
        """Imagine the next chunk of each episode (lines 7-8); the rollout stays as it is.

        Args:
            progress: called with (denoising steps done, steps). What it raises ends the chunk.
            on_frame: called with the number of a frame and its ``(B, H, W, 3)`` uint8 pictures as soon as
                they are decoded; frames are then decoded one by one, else all at once.
        """
        texts = tuple(s if isinstance(s, str) else s.text for s in subgoals)
        if len(texts) != len(rollout):
            raise ValueError(f"{len(rollout)} episodes but {len(texts)} subgoals; expected one each")
        latents = self.imagine_latents(rollout, texts, progress)
        if on_frame is None:
            return rollout, Chunk(texts, latents, self.decode(latents))
        frames = []
        for i in range(latents.shape[1]):
            frames.append(self.decode(latents[:, i : i + 1])[:, 0])
            on_frame(i, frames[-1])
        return rollout, Chunk(texts, latents, np.stack(frames, 1))

    def imagine_latents(
        self, rollout: Rollout, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """The next chunk of each episode as latents ``(B, F, C, h, w)``."""
        past, tokens = rollout.past, self.text.encode(texts).to(rollout.past)
        if (extra := self.memory.past(rollout.memory)) is not None:
            past = torch.cat([extra, past], 1)
        with torch.no_grad():
            more = self.memory.tokens(rollout.memory)
        if more is not None:
            tokens = torch.cat([tokens, more.to(tokens)], 1)
        shape = (self.settings.chunk_frames, *rollout.past.shape[2:])
        noise = torch.stack(
            [torch.randn(shape, generator=g) for g in self._generators(rollout, NOISE_STREAM)]
        )
        return self.diffusion.sample(
            past,
            noise.to(past),
            tokens,
            self.settings.sampling_steps,
            self.settings.guidance,
            lambda passes: self._applied(self.memory.weights(rollout.memory), passes),
            progress,
        )

    def remember(
        self,
        rollout: Rollout,
        chunk: Chunk,
        observed: np.ndarray | None = None,
        progress: Callable[[], None] | None = None,
    ) -> Rollout:
        """Fast learning on input ⊕ output (lines 11-14), then the output becomes the next input (line 5).

        Args:
            observed: ``(B, F, H, W, 3)`` uint8 that really happened; replaces what was imagined.
            progress: called before each pass through the UNet on what was imagined. What it raises ends the
                learning; the rollout stays as it is.
        """
        if observed is not None:
            return self.observe(rollout, chunk.subgoals, observed)
        after = self.remember_latents(rollout, chunk.subgoals, chunk.latents, progress)
        return replace(after, frames=chunk.frames[:, -1])

    def observe(self, rollout: Rollout, subgoals: Sequence[Subgoal | str], frames: np.ndarray) -> Rollout:
        """:meth:`remember` a chunk ``(B, F, H, W, 3)`` uint8 that really happened, imagined or not."""
        texts = tuple(s if isinstance(s, str) else s.text for s in subgoals)
        if len(texts) != len(rollout) or len(frames) != len(rollout):
            raise ValueError(
                f"{len(rollout)} episodes but {len(texts)} subgoals and {len(frames)} clips; expected one each"
            )
        new = self.autoencoder.encode(frames.reshape(-1, *frames.shape[2:])).unflatten(0, frames.shape[:2])
        return replace(self.remember_latents(rollout, texts, new), frames=frames[:, -1])

    def remember_latents(
        self,
        rollout: Rollout,
        texts: Sequence[str],
        new: Tensor,
        progress: Callable[[], None] | None = None,
    ) -> Rollout:
        """:meth:`remember` on latents ``(B, F, C, h, w)`` alone; the rollout's frames stay behind."""
        generators = self._generators(rollout, MEMORY_STREAM)
        tokens = self.text.encode(texts).to(new)
        writing: Denoiser = Announced(self.writing, progress) if progress else self.writing
        memory = self.memory.update(rollout.memory, writing, rollout.past, new, tokens, generators)
        past = torch.cat([rollout.past, new], 1)[:, -self.past_frames :]
        return replace(rollout, index=rollout.index + 1, past=past, memory=memory)

    def stream(self, image: np.ndarray, actions: Iterable[str], seed: int = 0) -> Iterator[Chunk]:
        """A long video from one ``(H, W, 3)`` uint8 image: a chunk of one episode for each action.

        Actions are taken when they are needed, so they may depend on the chunks before. A chunk is given
        before it is remembered, which happens when the next one is asked for.
        """
        rollout = self.start(np.asarray(image)[None], [seed])
        for action in actions:
            rollout, chunk = self.imagine(rollout, [action])
            yield chunk
            rollout = self.remember(rollout, chunk)

    def effects(self, rollout: Rollout) -> list[tuple[float, ...]]:
        """Per episode and chunk, how much Θ changed the predicted noise; empty unless it is measured."""
        measured = getattr(rollout.memory, "effect", ())
        return [tuple(float(e[b]) for e in measured) for b in range(len(rollout))]

    def save_memory(self, rollout: Rollout, folder: str | Path) -> None:
        """Write each episode's memory below ``folder``; see :mod:`world_model.memory.history`."""
        for i, seed in enumerate(rollout.seeds):
            save_chunk(self.memory, rollout.memory, i, episode_folder(folder, seed), rollout.index)

    def load_memory(self, rollout: Rollout, folder: str | Path) -> Rollout:
        """The rollout with one saved memory in place of every episode's own.

        Raises:
            MemoryFileError: missing or damaged, of another kind, or made with another model.
        """
        state = self.memory.load_episode(folder)
        return replace(rollout, memory=self.memory.select(state, [0] * len(rollout)))

    def decode(self, latents: Tensor) -> np.ndarray:
        """``(B, F, C, h, w)`` to ``(B, F, H, W, 3)`` uint8."""
        frames = self.autoencoder.decode(latents.flatten(0, 1))
        return frames.reshape(*latents.shape[:2], *frames.shape[1:])

    def _generators(self, rollout: Rollout, stream: int) -> list[torch.Generator]:
        return [generator(seed, rollout.index, stream) for seed in rollout.seeds]

    def _applied(self, weights: LoraWeights | None, passes: Sequence[str]) -> AbstractContextManager:
        if weights is None or self.injector is None:
            return torch.no_grad()
        seen = [float(p in self.settings.theta_in) for p in passes]
        factors = torch.tensor(seen).repeat_interleave(weights.batch).to(self.device)
        return self.injector.applied(weights.repeat(len(passes)).scaled(factors))

    # --- files ---------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a diffusers-style folder: unet, vae, scheduler, text, settings, Θ₀, the memory's module and
        the UNet that writes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        copied(self.unet, dtype).save_pretrained(folder / "unet")
        if self.writer is not None:
            copied(self.writer, dtype).save_pretrained(folder / WRITER)
        stored = FrameAutoencoder(
            copied(self.autoencoder.vae, dtype),
            self.autoencoder.unshuffle,
            self.autoencoder.shift.flatten().tolist(),
            self.autoencoder.scale,
        )
        stored.save_pretrained(folder / "vae")
        self.diffusion.scheduler.save_pretrained(folder / "scheduler")
        self.text.save_pretrained(folder)
        if self.theta0 is not None:
            save_theta0(folder / THETA0, self.theta0)
        kept = self.memory.kept() if isinstance(self.memory, WritesItsWay) else {}
        if self.memory.module is not None:
            write_safetensors(folder / MODULE, self.memory.module.state_dict())
        if self.memory.module is not None or kept:
            kind = self.memory.name.split()[-1]  # what is shuffled is itself
            write_json(folder / MEMORY, {"memory": kind, **({"options": kept} if kept else {})})
        write_json(folder / SETTINGS, asdict(self.settings) | ({"writer": True} if self.writer else {}))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        memory: AnyMemory | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        untrained_memory: bool = False,
        **changes: Any,
    ) -> WorldModel:
        """Open what ``save_pretrained`` wrote, or a ModelScopeT2V folder of diffusers.

        Args:
            folder: or a Hub id, ``ORG/NAME`` or ``ORG/NAME@REVISION``; see :mod:`tasks.hub`.
            memory: the model's own is a copy where its weights say how it is written: ``model.memory``.
            untrained_memory: a memory's own module may start untrained, where the folder holds none.
            changes: settings to use instead of the stored ones, such as ``sampling_steps``.

        Raises:
            CheckpointError: a missing, truncated or wrong-shaped file; no weights of a memory's own module; an id
                that the Hub does not give.
        """
        try:
            folder = located(str(folder))
        except HubError as error:
            raise CheckpointError(f"weights={folder}: {error}") from None
        if absent := [part for part in ("unet", "vae", "scheduler") if not (folder / part).is_dir()]:
            raise CheckpointError(
                f"weights={folder}: no world model there (no {absent[0]}/); give a folder that pretrain saved"
            )
        try:
            with silence():
                model = cls._opened(folder, dtype)
            theta0 = load_theta0(folder / THETA0) if (folder / THETA0).is_file() else None
        except Exception as error:  # the libraries raise many types for a damaged folder
            reason = " ".join(str(error).split())[:400]
            raise CheckpointError(
                f"weights={folder} can't be opened ({type(error).__name__}: {reason})"
            ) from None
        model.settings = replace(model.settings, **{k: v for k, v in changes.items() if v is not None})
        model.unet.to(device)
        if model.writer is not None:
            model.writer.to(device)
        model.autoencoder.to(device)
        if memory is not None:
            memory = as_trained(memory, folder)
            try:
                model.use_memory(memory, theta0 if memory.spec else None)
            except ValueError as error:
                if not theta0:
                    raise
                raise CheckpointError(f"weights={folder}: {THETA0}: {error}") from None
            if memory.module is not None and not (
                untrained_memory and stored_memory(folder)[0] != memory.name
            ):
                load_module(folder, memory)
        return model

    @classmethod
    def _opened(cls, folder: Path, dtype: torch.dtype) -> WorldModel:
        text: TextEncoder
        if (folder / "text_encoder").is_dir():
            text = ClipTextEncoder.from_pretrained(folder)
        else:
            text = SentenceEncoder.from_pretrained(folder)
        return cls(
            FrameAutoencoder.from_pretrained(folder / "vae", dtype),
            text,
            opened_unet(folder, "unet", dtype),
            DPMSolverMultistepScheduler.from_pretrained(folder, subfolder="scheduler"),
            stored_settings(folder),
            version=fingerprint(folder),
            writer=opened_unet(folder, WRITER, dtype) if has_writer(folder) else None,
        )


def stored_settings(folder: Path) -> Settings:
    """How the model in a folder is to be used; without our file it is a published one, which fast learning needs
    gradient checkpointing for. Raises OSError, ValueError, TypeError: the file is damaged."""
    file = folder / SETTINGS
    if not file.is_file():
        return Settings(gradient_checkpointing=True)
    stored = json.loads(file.read_text())
    stored.pop("writer", None)  # tells what lies beside it, not how it is used
    return Settings(**stored)


def has_writer(folder: Path) -> bool:
    """Whether fast learning takes its gradients at other weights than Φ's. Raises FileNotFoundError where these got
    lost, as a link does in a copy: Φ would be taken in their place."""
    file, writer = folder / SETTINGS, folder / WRITER
    told = file.is_file() and json.loads(file.read_text()).get("writer", False)
    if (told or writer.is_symlink() or writer.exists()) and not writer.is_dir():
        raise FileNotFoundError(
            f"{WRITER}/ is missing, whose weights fast learning needs; copy the folder with its links"
        )
    return writer.is_dir()


def opened_unet(folder: Path, part: str, dtype: torch.dtype) -> UNet3DConditionModel:
    """A frozen UNet of a diffusers folder."""
    unet = open_network(UNet3DConditionModel, folder / part, torch_dtype=dtype, low_cpu_mem_usage=False)
    return prepared(unet).eval().requires_grad_(False)


def stored_memory(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The kind of memory that the weights were trained with and the options that belong to them, as
    ``save_pretrained`` wrote them; None where they were trained without. Raises CheckpointError."""
    path = folder / MEMORY
    if not path.is_file():
        return None, {}
    try:
        stored = json.loads(path.read_text())
        return str(stored["memory"]), dict(stored.get("options", {}))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} names no kind of memory; get it again") from None


def as_trained(memory: AnyMemory, folder: Path) -> AnyMemory:
    """The memory; Temp-LoRA with the options that the weights in ``folder`` were trained with, where it was given
    none.

    Raises:
        CheckpointError: they can't be read, or are missing.
        ValueError: they don't go together with those that it was given.
    """
    if not isinstance(memory, WritesItsWay):
        return memory
    kind, kept = stored_memory(folder)
    if kind is None and (folder / THETA0).is_file():
        raise CheckpointError(
            f"{folder} holds {THETA0} without {MEMORY}, which says how Θ is written; get it again"
        )
    kept = kept if memory.name.split()[-1] == kind else {}
    try:
        FastLearning(**kept).check()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / MEMORY}: {error}; get it again") from None
    return memory.as_trained(kept)


def load_module(folder: Path, memory: AnyMemory) -> None:
    """Load the module of a memory of the same kind that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: none there, another kind's, damaged, or of other options.
    """
    kind = stored_memory(folder)[0] if (folder / MODULE).is_file() else None
    if kind != memory.name:
        found = "no memory's own weights" if kind is None else f"those of memory={kind}"
        raise CheckpointError(
            f"weights={folder} hold {found}, memory={memory.name} needs its own; "
            f"train them with python -m world_model.slowfast_loop memory={memory.name}"
        )
    assert memory.module is not None
    try:
        memory.module.load_state_dict(read_safetensors(folder / MODULE))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder / MODULE} does not fit memory={memory.name} ({reason}); "
            "use the options it was trained with"
        ) from None


def copied(module: nn.Module, dtype: torch.dtype) -> Any:
    """A detached copy of a diffusers module in another dtype."""
    with torch.device("meta"):  # draws no weights, so that the global generator stays where it is
        twin = cast(Any, type(module)).from_config(module.config)
    twin.load_state_dict(
        {k: v.detach().to(dtype, copy=True) for k, v in module.state_dict().items()}, assign=True
    )
    return twin


def fingerprint(folder: Path) -> str:
    """First 8 hex digits of the sha256 over the weights' files, without variants such as ``model.fp16.safetensors``,
    and over how their memory is written."""
    digest = hashlib.sha256()
    found = [Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names]
    for path in sorted(p for p in found if p.suffixes == [".safetensors"] or p.name == MEMORY):
        with path.open("rb") as file:
            while part := file.read(1 << 24):  # the largest has gigabytes
                digest.update(part)
    return digest.hexdigest()[:8]
