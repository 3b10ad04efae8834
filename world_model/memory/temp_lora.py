"""Temp-LoRA: after each chunk, a few Adam steps store it in low-rank weights Θ of the episode.

Paper: SlowFast-VGEN, Section 3.2, Eq. 3 and Algorithm 1a (lines 10-14). Φ is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from world_model.memory.lora import LoraInjector, LoraSpec, LoraWeights, tensors_sha256

OPTIMIZER = "optimizer.safetensors"
IDENTITY = ("rank", "alpha", "targets", "theta0_sha256", "base_sha256")
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class TempLoraState:
    """What B episodes remember; a value.

    Args:
        weights: Θ, batch B.
        moments: Adam's first and second moments, shaped as Θ; None unless the optimizer's state is kept.
        updates: per episode, chunks remembered so far.
        effect: per update ``(B,)``, ‖ε_with − ε_without‖ / ‖ε_without‖; empty unless measured, NaN where
            an episode has had fewer updates than another of its batch.
    """

    weights: LoraWeights
    moments: tuple[LoraWeights, LoraWeights] | None
    updates: tuple[int, ...]
    effect: tuple[Tensor, ...] = ()


class TempLora:
    """Fast learning.

    Args:
        steps: Adam steps per chunk.
        learning_rate: α of Algorithm 1a.
        timesteps: each step noises a whole sequence at one t from ``[low, high)``.
        rank, alpha, targets: see :class:`LoraSpec`.
        optimizer_state: ``reset`` starts Adam anew for each chunk, ``keep`` carries its moments on.
        betas: Adam's; the paper's default (Appendix C.1). No weight decay.
        measure_effect: record how much Θ changes the prediction, at the price of two more passes a chunk.

    Raises:
        ValueError: an option outside its range.
    """

    name = "temp_lora"
    module = None

    def __init__(
        self,
        steps: int = 4,
        learning_rate: float = 2e-3,
        timesteps: tuple[int, int] = (600, 1000),
        rank: int = 32,
        alpha: int = 32,
        targets: str | Sequence[str] = "attention",
        optimizer_state: Literal["reset", "keep"] = "reset",
        betas: tuple[float, float] = (0.9, 0.999),
        measure_effect: bool = False,
    ) -> None:
        low, high = timesteps
        if steps < 1 or learning_rate <= 0:
            raise ValueError(
                f"steps={steps}, learning_rate={learning_rate}: expected steps >= 1 and a rate > 0"
            )
        if not 0 <= low < high:
            raise ValueError(f"timesteps={[low, high]}: expected 0 <= low < high")
        if optimizer_state not in ("reset", "keep"):
            raise ValueError(f"optimizer_state={optimizer_state!r}: expected reset or keep")
        self.steps, self.learning_rate, self.timesteps = steps, learning_rate, (low, high)
        self.optimizer_state, self.betas = optimizer_state, (betas[0], betas[1])
        self.measure_effect = measure_effect
        self.spec = LoraSpec(rank, alpha, targets)
        self._bound: tuple[LoraInjector, LoraWeights] | None = None

    def bind(self, injector: LoraInjector | None, theta0: LoraWeights | None, sizes: Sizes) -> None:
        """Meet the model's injector and its Θ₀ ``(1, …)``.

        Raises:
            ValueError: either is missing, or they were made with another rank, alpha or targets.
        """
        if injector is None or theta0 is None:
            raise ValueError(
                "memory=temp_lora needs the model's low-rank weights; make them with memory.spec"
            )
        if injector.spec != self.spec:
            raise ValueError(f"the model carries {injector.spec}, memory=temp_lora asks for {self.spec}")
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
            raise RuntimeError("memory=temp_lora is not bound to a model; call bind(injector, theta0) first")
        return self._bound

    def reset(self, batch: int) -> TempLoraState:
        """Θ = Θ₀ for every episode; B is zero, so the model gives exactly Φ's output."""
        return TempLoraState(self.theta0.select([0] * batch).clone(), None, (0,) * batch)

    def select(self, state: TempLoraState, indices: Sequence[int]) -> TempLoraState:
        """Some of the episodes, in the given order."""
        first, second = state.moments or (None, None)
        moments = (first.select(indices), second.select(indices)) if first and second else None
        effect = tuple(e[torch.as_tensor(indices, device=e.device)] for e in state.effect)
        updates = tuple(state.updates[i] for i in indices)
        return TempLoraState(state.weights.select(indices), moments, updates, effect)

    def concat(self, states: Sequence[TempLoraState]) -> TempLoraState:
        """Join batches. Adam's moments, if kept, are zero for episodes that have none yet."""
        moments = None
        if any(s.moments is not None for s in states):
            zeros = [s.weights.map(torch.zeros_like) for s in states]
            pairs = [s.moments or (z, z) for s, z in zip(states, zeros, strict=True)]
            moments = LoraWeights.cat([p[0] for p in pairs]), LoraWeights.cat([p[1] for p in pairs])
        longest = max(len(s.effect) for s in states)
        effect = []
        for k in range(longest):
            rows = [s.effect[k] if k < len(s.effect) else _unmeasured(s) for s in states]
            effect.append(torch.cat(rows))
        updates = tuple(u for s in states for u in s.updates)
        return TempLoraState(LoraWeights.cat([s.weights for s in states]), moments, updates, tuple(effect))

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
        """Eq. 3: learn to denoise ``past ⊕ new`` as one action-free sequence; the loss covers all of it.

        The loss is a mean within an episode and a sum over episodes, and Adam works element by element:
        B episodes in one batch learn what each would learn alone.

        Args:
            past: ``(B, f_p, C, h, w)`` clean latents, the chunk's input.
            new: ``(B, f_g, C, h, w)`` clean latents, the chunk's output.
            tokens: not used: Eq. 3 is action-free.
            generators: one per episode, for its timesteps and noise.

        Raises:
            ValueError: batches differ, or ``timesteps`` exceed the model's.
        """
        self._check(state, denoiser, past, new, generators)
        with torch.inference_mode(False), torch.enable_grad(), self.injector.frozen_base():
            clean = torch.cat([past, new], 1).detach()
            theta = state.weights.clone().map(lambda x: x.requires_grad_(True))
            optimizer = self._optimizer(theta, state)
            flat = theta.tensors()
            with self.injector.applied(theta):
                for _ in range(self.steps):
                    timesteps, noise = self._draw(clean, generators)
                    loss = denoiser.sequence_loss(clean, timesteps, noise).sum()
                    for x, gradient in zip(flat, torch.autograd.grad(loss, flat), strict=True):
                        x.grad = gradient
                    optimizer.step()
            moments = self._moments(theta, optimizer) if self.optimizer_state == "keep" else None
            weights = theta.clone()
        effect = (*state.effect, self.effect(weights, denoiser, new)) if self.measure_effect else state.effect
        return TempLoraState(weights, moments, tuple(u + 1 for u in state.updates), effect)

    @torch.no_grad()
    def effect(self, weights: LoraWeights, denoiser: Denoiser, new: Tensor, seed: int = 0) -> Tensor:
        """‖ε_with − ε_without‖ / ‖ε_without‖ ``(B,)`` on ``new``, noised by a fixed seed at the middle t."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(new.shape[1:], generator=generator).to(new).expand_as(new)
        timesteps = torch.full((len(new),), sum(self.timesteps) // 2, device=new.device)
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
        if self.timesteps[1] > denoiser.num_train_timesteps:
            limit = denoiser.num_train_timesteps
            raise ValueError(
                f"memory timesteps={list(self.timesteps)} exceed the model's {limit}; lower them"
            )

    def _draw(self, clean: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        timesteps, noise = [], []
        for g in generators:
            timesteps.append(torch.randint(*self.timesteps, (), generator=g, device=g.device))
            noise.append(torch.randn(clean.shape[1:], generator=g, device=g.device))
        return torch.stack(timesteps).to(clean.device), torch.stack(noise).to(clean)

    def _optimizer(self, theta: LoraWeights, state: TempLoraState) -> torch.optim.Adam:
        optimizer = torch.optim.Adam(theta.tensors(), self.learning_rate, self.betas)
        if self.optimizer_state == "keep" and state.moments is not None:
            first, second = (moment.tensors() for moment in state.moments)
            for x, m, v in zip(theta.tensors(), first, second, strict=True):
                step = torch.tensor(float(state.updates[0] * self.steps))
                optimizer.state[x] = {"step": step, "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        return optimizer

    def _moments(self, theta: LoraWeights, optimizer: torch.optim.Adam) -> tuple[LoraWeights, LoraWeights]:
        return (
            theta.map(lambda x: optimizer.state[x]["exp_avg"]).clone(),
            theta.map(lambda x: optimizer.state[x]["exp_avg_sq"]).clone(),
        )

    def _identity(self) -> dict[str, Any]:
        """What a saved memory must agree with; Φ is hashed now, for slow learning may have changed it."""
        return {
            "rank": self.spec.rank,
            "alpha": self.spec.alpha,
            "targets": self.spec.targets if isinstance(self.spec.targets, str) else list(self.spec.targets),
            "theta0_sha256": self.theta0.sha256(),
            "base_sha256": tensors_sha256(self.injector.unet.state_dict()),
        }

    def _require(self, saved: Mapping[str, Any], where: str) -> None:
        identity = self._identity()
        for key, found in saved.items():
            if found != identity[key]:
                raise MemoryFileError(
                    f"{where}: saved with {key}={found}, this model has {key}={identity[key]}; "
                    "load it with the model and memory options it was made with"
                )

    def state_dict(self, state: TempLoraState) -> dict[str, Tensor]:
        """Flat tensors: ``theta.…``, ``first.…``, ``second.…`` (Adam, if kept), counters, both hashes."""
        groups = {"theta": state.weights}
        if state.moments is not None:
            groups |= {"first": state.moments[0], "second": state.moments[1]}
        tensors = {f"{g}.{k}": v for g, weights in groups.items() for k, v in weights.state_dict().items()}
        tensors["updates"] = torch.tensor(state.updates)
        tensors["effect"] = torch.stack(state.effect) if state.effect else torch.zeros(0, state.weights.batch)
        identity = self._identity()
        for key in ("theta0_sha256", "base_sha256"):
            tensors[key] = torch.tensor(list(bytes.fromhex(identity[key])), dtype=torch.uint8)
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> TempLoraState:
        """Inverse of :meth:`state_dict`.

        Raises:
            MemoryFileError: a tensor is missing or misshapen, or it belongs to another base, Θ₀ or rank.
        """
        missing = {"updates", "effect", "theta0_sha256", "base_sha256"} - set(tensors)
        if missing:
            raise MemoryFileError(
                f"the saved state lacks {sorted(missing)}; it is not a state of memory=temp_lora"
            )
        groups = _grouped(tensors)
        theta = self._fitting(groups.get("theta", {}), "the saved state")
        hashes = {k: bytes(tensors[k].tolist()).hex() for k in ("theta0_sha256", "base_sha256")}
        self._require(hashes, "the saved state")
        moments = self._moment_pair(groups, "the saved state") if "first" in groups else None
        updates = tuple(int(u) for u in tensors["updates"])
        return TempLoraState(theta, moments, updates, tuple(tensors["effect"]))

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
        options = {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "timesteps": list(self.timesteps),
        }
        counts = {"updates": one.updates[0], "effect": [float(e) for e in one.effect]}
        manifest = (
            {"memory": self.name}
            | self._identity()
            | options
            | counts
            | {"optimizer_state": self.optimizer_state}
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
        self._require({key: manifest[key] for key in IDENTITY}, str(folder))
        weights = self._fitting(from_adapter(read_tensors(folder / ADAPTER)), str(folder))
        moments = None
        if manifest["has_moments"]:
            groups = _grouped(read_tensors(folder / OPTIMIZER))
            moments = self._moment_pair(groups, str(folder / OPTIMIZER))
        effect = tuple(torch.tensor([float(e)]) for e in manifest.get("effect", []))
        return TempLoraState(weights, moments, (int(manifest["updates"]),), effect)


def _unmeasured(state: TempLoraState) -> Tensor:
    return torch.full((state.weights.batch,), float("nan"), device=state.weights.tensors()[0].device)


def _grouped(tensors: Mapping[str, Tensor]) -> Groups:
    """``{"first.x": …}`` to ``{"first": {"x": …}}``; names without a dot are left out."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, rest = key.partition(".")
        if rest:
            groups.setdefault(group, {})[rest] = value
    return groups
