"""Per-episode low-rank weights for a UNet: a batch of B episodes, each with its own Θ, in one forward pass.

PEFT chooses the layers; this file only adds ``scale · B A x`` to their outputs, one pair (A, B) per episode.
With nothing applied no hook exists, so the UNet is exactly the base model Φ, which is never written to.
This module does not know what a memory is, nor how Θ is learned.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from world_model.unet import recomputed_in

PRESETS: dict[str, str | tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention_blocks": r".*(transformer_in|attentions\.\d+)\.(.*\.)?"
    r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)",
}


@dataclass(frozen=True)
class LoraSpec:
    """Which layers get low-rank weights, and how large.

    Args:
        rank: r of A ``(r, in)`` and B ``(out, r)``; the paper uses 32 (Appendix C.1).
        alpha: the layer adds ``alpha / rank · B A x``.
        targets: ``attention`` (query, key, value and output projections), ``attention_blocks`` (every
            Linear of every attention block), or what PEFT takes as ``target_modules``: a regular
            expression over full module names, or a list of name endings.
    """

    rank: int = 32
    alpha: int = 32
    targets: str | Sequence[str] = "attention"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"rank={self.rank}, alpha={self.alpha}: expected rank >= 1 and alpha > 0")
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def scale(self) -> float:
        """Factor of ``B A x``."""
        return self.alpha / self.rank

    def peft_config(self) -> LoraConfig:
        """The same choice as PEFT writes and reads it."""
        targets = PRESETS.get(self.targets, self.targets) if isinstance(self.targets, str) else self.targets
        modules = targets if isinstance(targets, str) else list(targets)
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=modules, inference_mode=True)


@dataclass(frozen=True)
class LoraWeights:
    """Θ of B episodes, a value: layer name -> (A ``(B, r, in)``, B ``(B, out, r)``)."""

    factors: Mapping[str, tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        # One order, wherever they come from: Adam's moments are matched to A and B by position.
        object.__setattr__(self, "factors", dict(sorted(self.factors.items())))

    @property
    def batch(self) -> int:
        """Number of episodes B."""
        return next(iter(self.factors.values()))[0].shape[0]

    @property
    def rank(self) -> int:
        """Rank r."""
        return next(iter(self.factors.values()))[0].shape[1]

    def map(self, function: Callable[[Tensor], Tensor]) -> LoraWeights:
        """Apply ``function`` to every A and every B."""
        return LoraWeights({name: (function(a), function(b)) for name, (a, b) in self.factors.items()})

    def tensors(self) -> list[Tensor]:
        """``[A, B, A, B, …]`` in the order of the layers' names."""
        return [x for pair in self.factors.values() for x in pair]

    def clone(self) -> LoraWeights:
        """A copy that shares no memory and no autograd graph."""
        return self.map(lambda x: x.detach().clone())

    def to(self, where: torch.device | torch.dtype | str) -> LoraWeights:
        """On another device, or in another dtype."""
        return self.map(lambda x: x.to(where))

    def select(self, indices: Sequence[int] | Tensor) -> LoraWeights:
        """Episodes by index, repeats allowed: ``select([0] * B)`` hands the first one to all."""
        return self.map(lambda x: x[torch.as_tensor(indices, device=x.device)])

    def repeat(self, times: int) -> LoraWeights:
        """Tile along the batch, ``[e0 e1 e0 e1 …]``: fits ``torch.cat([x] * times)``, as guidance does."""
        return self.map(lambda x: x.repeat(times, 1, 1))

    def scaled(self, factors: Sequence[float] | Tensor) -> LoraWeights:
        """Multiply each episode's ΔW by its factor ``(B,)``; 0 gives the base model for that episode."""
        first = next(iter(self.factors.values()))[1]
        by = torch.as_tensor(factors, dtype=first.dtype, device=first.device).view(-1, 1, 1)
        return LoraWeights({name: (a, b * by) for name, (a, b) in self.factors.items()})

    def plus(self, other: LoraWeights, less: LoraWeights) -> LoraWeights:
        """What ``other`` has more than ``less``, added to these; a factor where they are equal is kept, not copied."""

        def added(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return x if torch.equal(y, z) else x + (y - z)

        return LoraWeights(
            {
                name: tuple(map(added, pair, other.factors[name], less.factors[name]))  # type: ignore[misc]
                for name, pair in self.factors.items()
            }
        )

    @staticmethod
    def cat(weights: Sequence[LoraWeights]) -> LoraWeights:
        """Concatenate along the batch."""
        names = weights[0].factors
        pairs = {n: ([w.factors[n][0] for w in weights], [w.factors[n][1] for w in weights]) for n in names}
        return LoraWeights({n: (torch.cat(a), torch.cat(b)) for n, (a, b) in pairs.items()})

    def norm(self) -> Tensor:
        """Frobenius norm of ``B A`` over all layers, ``(B,)``."""
        squares = [(b @ a).square().sum((1, 2)) for a, b in self.factors.values()]
        return torch.stack(squares).sum(0).sqrt()

    def distance(self, other: LoraWeights) -> Tensor:
        """Frobenius norm of the difference of two ``B A``, ``(B,)``; a batch of 1 is compared with all."""
        pairs = ((self.factors[n], other.factors[n]) for n in self.factors)
        squares = [(b @ a - d @ c).square().sum((1, 2)) for (a, b), (c, d) in pairs]
        return torch.stack(squares).sum(0).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, keyed as PEFT does: ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``."""
        flat = {}
        for name, (a, b) in self.factors.items():
            flat[f"{name}.lora_A.weight"] = a.detach().contiguous()
            flat[f"{name}.lora_B.weight"] = b.detach().contiguous()
        return flat

    @staticmethod
    def from_state_dict(state: Mapping[str, Tensor]) -> LoraWeights:
        """Inverse of :meth:`state_dict`. Raises ``ValueError`` for a missing half or an unknown key."""
        names = [k.removesuffix(".lora_A.weight") for k in state if k.endswith(".lora_A.weight")]
        expected = {f"{n}.lora_{x}.weight" for n in names for x in "AB"}
        if not names or expected != set(state):
            raise ValueError(
                f"not low-rank weights: keys {sorted(expected ^ set(state))[:3]} are missing or unknown"
            )
        return LoraWeights({n: (state[f"{n}.lora_A.weight"], state[f"{n}.lora_B.weight"]) for n in names})

    def sha256(self) -> str:
        """Hash of names, shapes and values."""
        return tensors_sha256(self.state_dict())


class LoraInjector:
    """Adds per-episode low-rank weights to a UNet's Linear layers while :meth:`applied` is open.

    Every target of diffusers' ``UNet3DConditionModel`` sees the episodes outermost: spatial attention
    ``(B·F, hw, C)``, temporal attention ``(B·hw, F, C)``, text ``(B·F, n, D)``. Hence one view as
    ``(B, -1, in)`` and one ``bmm`` serve them all.

    Args:
        unet: the base model Φ; only read.
        spec: rank, alpha and targets.

    Raises:
        ValueError: the targets match nothing, or something that is not a Linear.
    """

    def __init__(self, unet: nn.Module, spec: LoraSpec) -> None:
        self.unet = unet
        self.spec = spec
        self.layers = _peft_targets(unet, spec)
        self._active: LoraWeights | None = None

    def initial(self, seed: int = 0) -> LoraWeights:
        """Θ₀ ``(1, …)``, float32: A kaiming-uniform as in PEFT, one fixed draw for all episodes; B zero.
        Its values are half-precision numbers, which a file of half the size holds exactly.

        A shared A lets slow learning train Φ to read what fast learning wrote.
        """
        generator = torch.Generator().manual_seed(seed)
        factors = {}
        for name, layer in self.layers.items():
            bound = math.sqrt(1.0 / layer.in_features)  # kaiming_uniform_(a=sqrt(5))
            a = (torch.rand((1, self.spec.rank, layer.in_features), generator=generator) * 2 - 1) * bound
            a = a.half().float()
            b = torch.zeros(1, layer.out_features, self.spec.rank)
            factors[name] = (a.to(layer.weight.device), b.to(layer.weight.device))
        return LoraWeights(factors)

    def check(self, weights: LoraWeights) -> None:
        """Raise ``ValueError`` unless ``weights`` have this injector's layers, rank and widths."""
        if set(weights.factors) != set(self.layers):
            odd = sorted(set(weights.factors) ^ set(self.layers))[0]
            raise ValueError(
                f"weights are for other layers than targets={self.spec.targets!r} chose, e.g. {odd}"
            )
        for name, layer in self.layers.items():
            a, b = weights.factors[name]
            rank = self.spec.rank
            if a.shape[1:] != (rank, layer.in_features) or b.shape[1:] != (layer.out_features, rank):
                raise ValueError(
                    f"{name}: weights A {tuple(a.shape)}, B {tuple(b.shape)} do not fit rank {rank} on a "
                    f"Linear({layer.in_features}, {layer.out_features}); make them with the same spec"
                )

    @contextmanager
    def applied(self, weights: LoraWeights | None) -> Iterator[None]:
        """While open, the UNet is Φ + Θ; ``None`` leaves Φ. An inner context replaces an outer one.

        The batch of ``weights`` divides the batch of the UNet's input evenly: episode i serves the i-th
        run of consecutive samples. Layers that gradient checkpointing computes again see the same Θ, also
        when ``backward`` is called later.
        """
        if weights is self._active:  # a layer that is computed again while the context is open
            yield
            return
        if weights is not None:
            self.check(weights)
        outer, self._active = self._active, weights
        handles = []
        if weights is not None:
            hooks = {name: self._hook(weights, name) for name in self.layers}
            handles = [self.layers[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            with recomputed_in(lambda: self.applied(weights)):
                yield
        finally:
            self._active = outer
            for handle in handles:
                handle.remove()

    def _hook(self, weights: LoraWeights, name: str) -> Callable[..., Tensor | None]:
        a, b = weights.factors[name]
        scale = self.spec.scale

        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._active is not weights:
                return None
            x = inputs[0]
            if x.shape[0] % a.shape[0]:
                raise ValueError(
                    f"{name}: {a.shape[0]} episodes' weights do not divide a batch of {x.shape[0]}"
                )
            flat = x.reshape(a.shape[0], -1, x.shape[-1]).to(a.dtype)
            delta = torch.bmm(torch.bmm(flat, a.transpose(1, 2)), b.transpose(1, 2)) * scale
            return output + delta.view_as(output).to(output.dtype)

        return add

    @contextmanager
    def frozen_base(self) -> Iterator[None]:
        """While open, no parameter of Φ asks for a gradient; afterwards each asks as before."""
        asked = [p for p in self.unet.parameters() if p.requires_grad]
        for p in asked:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in asked:
                p.requires_grad_(True)


def _peft_targets(unet: nn.Module, spec: LoraSpec) -> dict[str, nn.Linear]:
    """The Linear layers PEFT would adapt, by name: PEFT injects into a copy without storage."""
    memo: dict[int, Tensor] = {id(p): nn.Parameter(p.to("meta"), False) for p in unet.parameters()}
    shell = copy.deepcopy(unet, memo | {id(b): b.to("meta") for b in unet.buffers()})
    try:
        inject_adapter_in_model(spec.peft_config(), shell, low_cpu_mem_usage=True)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"memory targets {spec.targets!r} do not fit {type(unet).__name__}: {reason}"
        ) from error
    names = [name for name, module in shell.named_modules() if isinstance(module, LoraLayer)]
    layers: dict[str, nn.Linear] = {}
    for name in names:
        layer = unet.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            kind = type(layer).__name__
            raise ValueError(f"memory target {name} is a {kind}; only Linear layers are supported")
        layers[name] = layer
    return layers


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, dtypes, shapes and bytes, in the order of names; ``module.state_dict()`` will do."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
