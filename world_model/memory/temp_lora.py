"""Temp-LoRA: after each chunk, a few gradient steps store it in low-rank weights Θ of the episode.

Paper: SlowFast-VGEN, Section 3.2, Eq. 3 and Algorithm 1a (lines 10-14); the two other objectives are the
ablations of Appendix D.1. Φ is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_model.memory.adapter import (
    ADAPTER,
    from_adapter,
    read_manifest,
    read_tensors,
    to_adapter,
    write_folder,
)
from world_model.memory.base import Denoiser, MemoryFileError, Sizes
from world_model.memory.fast_learning import FastLearning
from world_model.memory.frames import FRAMES, NOTHING, extended
from world_model.memory.lora import LoraInjector, LoraWeights, tensors_sha256
from world_model.memory.normalized import NormalizedDescent
from world_model.memory.temp_lora_state import Groups, TempLoraState, grouped

OPTIMIZER = "optimizer.safetensors"
SCALES = {torch.float16: 2.0**12}
"""What the loss is multiplied by, and Θ's gradients divided by, where the network computes in such numbers: a mean over
a chunk's latents has gradients below the smallest of fp16."""
IDENTITY = ("rank", "alpha", "targets", "theta0_sha256", "base_sha256")
HASHES = ("theta0_sha256", "base_sha256")


class TempLora:
    """Fast learning.

    Args:
        measure_effect: record how much Θ changes the prediction, at the price of two more passes a chunk.
        options: of :class:`FastLearning`. Those that are None, or not given, are those that the model's weights were
            trained with (:meth:`as_trained`), else that class's defaults.

    Raises:
        ValueError: an option outside its range; those that don't go together are told by :meth:`bind`.
        TypeError: an unknown one.
    """

    module = None

    def __init__(self, measure_effect: bool = False, **options: Any) -> None:
        self.given = {name: value for name, value in options.items() if value is not None}
        self.learning = FastLearning(**self.given)
        self.name, self.spec = self.learning.name, self.learning.spec
        self.measure_effect = measure_effect
        self._bound: tuple[LoraInjector, LoraWeights] | None = None
        self._hashed: tuple[object, str] | None = None  # Φ, as it was written last, and its digest

    def kept(self) -> dict[str, Any]:
        """The options that belong to the weights, json-able."""
        return asdict(self.learning)

    def as_trained(self, kept: Mapping[str, Any]) -> TempLora:
        """This memory with the :meth:`kept` options of another, where it was given none.

        Raises:
            ValueError, TypeError: an unknown option, one out of range, or some that don't go together.
        """
        trained = TempLora(self.measure_effect, **{**kept, **self.given})
        trained.learning.check()
        return trained

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Meet the model's injector and its Θ₀ ``(1, …)``.

        Raises:
            ValueError: either is missing, they were made with another rank, alpha or targets, or options don't go
                together.
        """
        self.learning.check()
        if injector is None or theta0 is None:
            raise ValueError(
                f"memory={self.name} needs the model's low-rank weights; make them with memory.spec"
            )
        if injector.spec != self.spec:
            raise ValueError(f"the model carries {injector.spec}, memory={self.name} asks for {self.spec}")
        injector.check(theta0)
        if theta0.batch != 1:
            raise ValueError(f"Θ₀ has a batch of {theta0.batch}; expected 1, shared by all episodes")
        device = next(injector.unet.parameters()).device
        self._bound = injector, theta0.to(device).clone()

    @property
    def injector(self) -> LoraInjector:
        """The bound injector. Raises ``RuntimeError`` before :meth:`bind`."""
        return self._model()[0]

    @property
    def theta0(self) -> LoraWeights:
        """The bound Θ₀ ``(1, …)``. Raises ``RuntimeError`` before :meth:`bind`."""
        return self._model()[1]

    def _model(self) -> tuple[LoraInjector, LoraWeights]:
        if self._bound is None:
            raise RuntimeError(f"memory={self.name} is not bound to a model; call bind first")
        return self._bound

    def reset(self, batch: int) -> TempLoraState:
        """Θ = Θ₀ for every episode; B is zero, so the model gives exactly Φ's output."""
        frames = (NOTHING,) * batch if self._looks_back else ()
        weights = self.theta0.map(lambda x: x.expand(batch, -1, -1))
        return TempLoraState(weights, None, (0,) * batch, frames=frames)

    @property
    def _looks_back(self) -> bool:
        """Whether learning needs the episode's earlier frames."""
        return self.learning.objective == "whole_sequence" or self.learning.replay > 0

    def select(self, state: TempLoraState, indices: Sequence[int]) -> TempLoraState:
        """Some of the episodes, in the given order."""
        return state.select(indices)

    def concat(self, states: Sequence[TempLoraState]) -> TempLoraState:
        """Join batches; see :meth:`TempLoraState.concat`."""
        return TempLoraState.concat(states)

    def past(self, state: TempLoraState) -> None:
        """None: no extra past."""

    def tokens(self, state: TempLoraState) -> None:
        """None: no extra tokens."""

    def weights(self, state: TempLoraState) -> LoraWeights:
        """Each episode's Θ."""
        return state.weights

    def update(
        self,
        state: TempLoraState,
        denoiser: Denoiser,
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> TempLoraState:
        """Learn a chunk. With ``objective=local``, Eq. 3: to denoise ``past ⊕ new`` as one action-free
        sequence; the loss covers all of it.

        The loss is a mean within an episode and a sum over episodes, and the optimizer works element by
        element: B episodes in one batch learn what each would learn alone.

        Args:
            past: ``(B, f_p, C, h, w)`` clean latents, the chunk's input.
            new: ``(B, f_g, C, h, w)`` clean latents, the chunk's output.
            tokens: ``(B, n, D)`` text; read by ``objective=conditional`` alone.
            generators: one per episode, for its windows, timesteps and noise; unused with shared ones.

        Raises:
            ValueError: batches differ, ``timesteps`` exceed the model's, or in half precision a gradient is not finite.
        """
        self._check(state, denoiser, past, new, generators)
        if self.learning.draws == "shared":
            counted = zip(generators, state.updates, strict=True)
            generators = [torch.Generator(g.device).manual_seed(count) for g, count in counted]
        with torch.inference_mode(False), torch.enable_grad(), self.injector.frozen_base():
            past, new, tokens = (x.detach().clone() for x in (past, new, tokens))
            frames = tuple(extended(*x) for x in zip(state.frames, past, new, strict=bool(state.frames)))
            start = state.weights if self.learning.begins == "theta" else self.reset(len(past)).weights
            theta = self._learnable(start)
            optimizer = self._optimizer(theta, state)
            learned = optimizer.param_groups[0]["params"]
            with self.injector.applied(theta):
                for _ in range(self.learning.steps):
                    loss = self._loss(denoiser, frames, past, new, tokens, generators).sum()
                    found = gradients(loss, learned, SCALES.get(new.dtype))
                    for x, gradient in zip(learned, found, strict=True):
                        x.grad = gradient
                    optimizer.step()
            moments = self._moments(theta, optimizer) if self.learning.optimizer_state == "keep" else None
            weights = theta.map(Tensor.detach)
            if self.learning.begins == "theta0":
                weights = state.weights.plus(weights, less=start)
        effect = (*state.effect, self.effect(weights, denoiser, new)) if self.measure_effect else state.effect
        return TempLoraState(weights, moments, tuple(u + 1 for u in state.updates), effect, frames)

    def _learnable(self, weights: LoraWeights) -> LoraWeights:
        """A copy to learn on. An A that no step changes is shared: snapshots of many episodes hold it once."""
        if self.learning.optimizer != "normalized":
            return weights.clone().map(lambda x: x.requires_grad_(True))
        pairs = {
            name: (a.clone() if a.is_inference() else a.detach(), b.detach().clone().requires_grad_(True))
            for name, (a, b) in weights.factors.items()
        }
        return LoraWeights(pairs)

    def _loss(
        self,
        denoiser: Denoiser,
        frames: Sequence[Tensor],
        past: Tensor,
        new: Tensor,
        tokens: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """One step's loss of each episode ``(B,)``."""
        clean = torch.cat([past, new], 1)
        if frames:
            clean = self._windows(frames, clean, new.shape[1], generators)
        each = len(clean) // len(past)
        timesteps, noise = self._draw(clean, [g for g in generators for _ in range(each)])
        if self.learning.objective == "conditional":
            return denoiser.conditional_loss(clean, past.shape[1], timesteps, noise, tokens)
        if self.learning.objective == "backward":
            return denoiser.conditional_loss(clean.flip(1), new.shape[1], timesteps, noise)
        return denoiser.sequence_loss(clean, timesteps, noise).view(-1, each).mean(1)

    def _windows(
        self, frames: Sequence[Tensor], local: Tensor, new: int, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Sequences ``(B · k, F, C, h, w)`` as long as the ``local`` ones, an episode's k side by side: drawn
        from all of its frames, or the local one and ``replay`` that end before its ``new`` frames."""
        rows: list[Tensor] = []
        whole, length = self.learning.objective == "whole_sequence", local.shape[1]
        for seen, sequence, g in zip(frames, local, generators, strict=True):
            last = max(0, len(seen) - length - (0 if whole else new))
            starts = torch.randint(
                last + 1, (self.learning.replay + whole,), generator=g, device=g.device
            ).tolist()
            rows += [] if whole else [sequence]
            rows += [seen[at : at + length] for at in starts]
        return torch.stack(rows)

    @torch.no_grad()
    def effect(
        self,
        weights: LoraWeights,
        denoiser: Denoiser,
        new: Tensor,
        seed: int = 0,
        against: LoraWeights | None = None,
    ) -> Tensor:
        """‖ε_with − ε_without‖ / ‖ε_without‖ ``(B,)`` on ``new``, noised by a fixed seed at t = 0.8 T;
        "without" is Φ alone, or Φ with the weights to compare ``against``."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(new.shape[1:], generator=generator).to(new).expand_as(new)
        timesteps = torch.full((len(new),), 4 * denoiser.num_train_timesteps // 5, device=new.device)
        with self.injector.applied(against):
            without = denoiser.predicted_noise(new, timesteps, noise)
        with self.injector.applied(weights):
            change = denoiser.predicted_noise(new, timesteps, noise) - without
        return change.flatten(1).norm(dim=1) / without.flatten(1).norm(dim=1)

    def _check(
        self, state: TempLoraState, denoiser: Denoiser, past: Tensor, new: Tensor, generators: Sequence[Any]
    ) -> None:
        sizes = {
            "state": state.weights.batch,
            "past": len(past),
            "new": len(new),
            "generators": len(generators),
        }
        if len(set(sizes.values())) != 1:
            raise ValueError(f"episodes differ in number: {sizes}")
        if state.moments is not None and len(set(state.updates)) > 1:
            raise ValueError(
                f"optimizer_state=keep: episodes after {sorted(set(state.updates))} updates can't learn in one "
                "batch, for Adam counts its steps; update them apart"
            )
        if self.learning.timesteps[1] > denoiser.num_train_timesteps:
            limit = denoiser.num_train_timesteps
            raise ValueError(
                f"memory timesteps={list(self.learning.timesteps)} exceed the model's {limit}; lower them"
            )

    def _draw(self, clean: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        timesteps, noise = [], []
        for g in generators:
            timesteps.append(torch.randint(*self.learning.timesteps, (), generator=g, device=g.device))
            noise.append(torch.randn(clean.shape[1:], generator=g, device=g.device))
        return torch.stack(timesteps).to(clean.device), torch.stack(noise).to(clean)

    def _optimizer(self, theta: LoraWeights, state: TempLoraState) -> torch.optim.Optimizer:
        if self.learning.optimizer == "sgd":
            return torch.optim.SGD(theta.tensors(), self.learning.learning_rate)
        if self.learning.optimizer == "normalized":
            return NormalizedDescent([b for _, b in theta.factors.values()], self.learning.learning_rate)
        optimizer = torch.optim.Adam(theta.tensors(), self.learning.learning_rate, self.learning.betas)
        if self.learning.optimizer_state == "keep" and state.moments is not None:
            first, second = (moment.tensors() for moment in state.moments)
            for x, m, v in zip(theta.tensors(), first, second, strict=True):
                step = torch.tensor(float(state.updates[0] * self.learning.steps))
                optimizer.state[x] = {"step": step, "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        return optimizer

    def _moments(
        self, theta: LoraWeights, optimizer: torch.optim.Optimizer
    ) -> tuple[LoraWeights, LoraWeights]:
        return (
            theta.map(lambda x: optimizer.state[x]["exp_avg"]).clone(),
            theta.map(lambda x: optimizer.state[x]["exp_avg_sq"]).clone(),
        )

    def _identity(self) -> dict[str, Any]:
        """What a saved memory must agree with."""
        return {
            "rank": self.spec.rank,
            "alpha": self.spec.alpha,
            "targets": self.spec.targets if isinstance(self.spec.targets, str) else list(self.spec.targets),
            "theta0_sha256": self.theta0.sha256(),
            "base_sha256": self._core_sha256(),
        }

    def _core_sha256(self) -> str:
        """Of the UNet that Θ is learned at; hashed anew where slow learning has written to it."""
        core = self.injector.unet.state_dict()
        written = tuple((x.data_ptr(), x._version) for x in core.values())
        if self._hashed is None or self._hashed[0] != written:
            self._hashed = written, tensors_sha256(core)
        return self._hashed[1]

    def require(self, saved: Mapping[str, Any], where: str) -> None:
        """Raise MemoryFileError unless what was saved of rank, alpha, targets, Θ₀ and Φ is the model's."""
        identity = self._identity()
        for key, found in saved.items():
            if found != identity[key]:
                raise MemoryFileError(
                    f"{where}: saved with {key}={found}, this model has {key}={identity[key]}; "
                    "load it with the model and memory options it was made with"
                )

    def state_dict(self, state: TempLoraState) -> dict[str, Tensor]:
        """The flat tensors of :meth:`TempLoraState.tensors`, and the hashes of Θ₀ and Φ."""
        tensors, identity = state.tensors(), self._identity()
        for key in HASHES:
            tensors[key] = torch.tensor(list(bytes.fromhex(identity[key])), dtype=torch.uint8)
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> TempLoraState:
        """Inverse of :meth:`state_dict`.

        Raises:
            MemoryFileError: a tensor is missing or misshapen, or it belongs to another base, Θ₀ or rank.
        """
        missing = {"updates", "effect", *HASHES} - set(tensors)
        if missing:
            raise MemoryFileError(
                f"the saved state lacks {sorted(missing)}; it is not a state of memory={self.name}"
            )
        groups = grouped(tensors)
        theta = self._fitting(groups.get("theta", {}), "the saved state")
        hashes = {k: bytes(tensors[k].tolist()).hex() for k in HASHES}
        self.require(hashes, "the saved state")
        moments = self._moment_pair(groups, "the saved state") if "first" in groups else None
        updates = tuple(int(u) for u in tensors["updates"])
        kept = groups.get("frames", {})
        frames = [kept[str(i)] for i in range(len(kept))]
        frames_of = self._frames(frames, theta.batch, "the saved state")
        return TempLoraState(theta, moments, updates, tuple(tensors["effect"]), frames_of)

    def _frames(self, frames: Sequence[Tensor], batch: int, where: str) -> tuple[Tensor, ...]:
        if not self._looks_back:
            return ()
        if len(frames) != batch:
            raise MemoryFileError(
                f"{where} keeps no earlier frames, which objective={self.learning.objective}, "
                f"replay={self.learning.replay} learn from; save it with the same options"
            )
        return tuple(frames)

    def _moment_pair(self, groups: Groups, where: str) -> tuple[LoraWeights, LoraWeights]:
        return self._fitting(groups.get("first", {}), where), self._fitting(groups.get("second", {}), where)

    def _fitting(self, tensors: Mapping[str, Tensor], where: str) -> LoraWeights:
        try:
            weights = LoraWeights.from_state_dict(tensors)
            self.injector.check(weights)
        except ValueError as error:
            raise MemoryFileError(f"{where}: {error}") from error
        return weights.to(next(self.injector.unet.parameters()).device)

    def save_episode(self, state: TempLoraState, index: int, folder: str | Path) -> None:
        """Write episode ``index`` as a PEFT adapter, with ``memory.json`` and, if kept, Adam's moments.

        ``PeftModel.from_pretrained(unet, folder)`` opens it with the same outputs.

        Raises:
            MemoryFileError: the folder exists and is not a saved memory.
        """
        one = self.select(state, [index])
        files = {ADAPTER: to_adapter(one.weights)}
        if one.moments is not None:
            pairs = zip(("first", "second"), one.moments, strict=True)
            files[OPTIMIZER] = {f"{n}.{k}": v for n, m in pairs for k, v in m.state_dict().items()}
        if one.frames:
            files[FRAMES] = {"frames": one.frames[0]}
        options = {
            "objective": self.learning.objective,
            "replay": self.learning.replay,
            "optimizer": self.learning.optimizer,
            "steps": self.learning.steps,
            "learning_rate": self.learning.learning_rate,
            "timesteps": list(self.learning.timesteps),
        }
        counts = {"updates": one.updates[0], "effect": [float(e) for e in one.effect]}
        manifest = (
            {"memory": self.name}
            | self._identity()
            | options
            | counts
            | {"optimizer_state": self.learning.optimizer_state}
        )
        write_folder(
            folder, files, manifest | {"has_moments": one.moments is not None}, self.spec.peft_config()
        )

    def load_episode(self, folder: str | Path) -> TempLoraState:
        """Read such a folder as a state of one episode.

        Raises:
            MemoryFileError: missing or damaged, or made with another base, Θ₀, rank, alpha or targets.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, self.name)
        missing = {*IDENTITY, "updates", "has_moments"} - set(manifest)
        if missing:
            raise MemoryFileError(f"{folder}: memory.json lacks {sorted(missing)}; save the memory again")
        self.require({key: manifest[key] for key in IDENTITY}, str(folder))
        weights = self._fitting(from_adapter(read_tensors(folder / ADAPTER)), str(folder))
        moments = None
        if manifest["has_moments"]:
            groups = grouped(read_tensors(folder / OPTIMIZER))
            moments = self._moment_pair(groups, str(folder / OPTIMIZER))
        effect = tuple(torch.tensor([float(e)]) for e in manifest.get("effect", []))
        kept = [read_tensors(folder / FRAMES)["frames"]] if (folder / FRAMES).is_file() else []
        frames = self._frames(kept, 1, str(folder))
        return TempLoraState(weights, moments, (int(manifest["updates"]),), effect, frames)


def gradients(loss: Tensor, learned: Sequence[Tensor], scale: float | None) -> Sequence[Tensor]:
    """The gradients of a loss, computed of ``scale`` times it where that is given.

    Raises:
        ValueError: a scaled one is not finite.
    """
    if scale is None:
        return torch.autograd.grad(loss, learned)
    found = [x / scale for x in torch.autograd.grad(scale * loss.float(), learned)]
    if not torch.stack([x.isfinite().all() for x in found]).all():
        raise ValueError(
            "fast learning: a gradient is not finite in half precision; use precision=bf16 or fp32"
        )
    return found
