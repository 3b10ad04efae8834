"""How Θ is written: the options of fast learning, which a model that the loop trained keeps beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from world_model.memory.lora import LoraSpec

NAMES = {
    "local": "temp_lora",
    "backward": "temp_lora",
    "conditional": "temp_lora_original",
    "whole_sequence": "temp_lora_sequence",
}
"""A memory's name, by its objective."""


@dataclass(frozen=True)
class FastLearning:
    """Options of :class:`~world_model.memory.temp_lora.TempLora`.

    Attributes:
        steps: optimizer steps per chunk.
        learning_rate: α of Algorithm 1a.
        timesteps: each step noises a whole sequence at one t from ``[low, high)``.
        rank, alpha, targets: see :class:`LoraSpec`.
        objective: what the steps learn. ``local`` (Eq. 3): the chunk's input ⊕ output as one sequence, all
            of it noised, without text. ``backward``: the chunk's input after its clean output, both in reverse, without
            text: the way back. ``conditional`` (the original Temp-LoRA): its output after its clean
            input, with the text. ``whole_sequence`` ("wo local learning rule"): as local, on windows of the
            same length drawn from the whole episode so far.
        replay: further windows of the episode before this chunk that each step learns, too; with ``local`` and
            ``whole_sequence`` alone.
        optimizer: ``adam``; ``sgd``: plain steps along the gradient, the local learning rule of Eq. 4-6; or
            ``normalized``: those of :class:`NormalizedDescent`, for B alone: A keeps Θ₀'s values, which all
            episodes share.
        optimizer_state: ``reset`` starts Adam anew for each chunk, ``keep`` carries its moments on.
        betas: Adam's; the paper's default (Appendix C.1). No weight decay.
        begins: where each chunk's steps begin: at the episode's ``theta``, so that what it holds already is not
            written again; or at ``theta0``, and what they changed is added to Θ: each chunk is written as if it were
            the first, and no later one writes over an earlier.
        draws: whose timesteps and noise a step sees: each episode its ``own``, or all of them ``shared`` ones,
            fixed for an episode's n-th chunk, so that Θ differs from episode to episode only by what was seen.

    Raises:
        ValueError: an option outside its range.
    """

    steps: int = 1
    learning_rate: float = 2e-3
    timesteps: tuple[int, int] = (990, 1000)
    rank: int = 32
    alpha: int = 32
    targets: str | Sequence[str] = "attention_blocks"
    objective: Literal["local", "backward", "conditional", "whole_sequence"] = "local"
    replay: int = 0
    optimizer: Literal["adam", "sgd", "normalized"] = "normalized"
    optimizer_state: Literal["reset", "keep"] = "reset"
    betas: tuple[float, float] = (0.9, 0.999)
    begins: Literal["theta", "theta0"] = "theta0"
    draws: Literal["own", "shared"] = "shared"

    def __post_init__(self) -> None:
        low, high = self.timesteps
        object.__setattr__(self, "timesteps", (low, high))
        first, second = self.betas
        object.__setattr__(self, "betas", (first, second))
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        if self.steps < 1 or self.learning_rate <= 0:
            raise ValueError(
                f"steps={self.steps}, learning_rate={self.learning_rate}: expected steps >= 1 and a rate > 0"
            )
        if not 0 <= low < high:
            raise ValueError(f"timesteps={[low, high]}: expected 0 <= low < high")
        if self.objective not in NAMES:
            raise ValueError(f"objective={self.objective!r}: expected {', '.join(NAMES)}")
        if self.replay < 0:
            raise ValueError(f"replay={self.replay}: expected 0 or more")
        if self.begins not in ("theta", "theta0") or self.draws not in ("own", "shared"):
            raise ValueError(
                f"begins={self.begins!r}, draws={self.draws!r}: expected theta or theta0, own or shared"
            )
        if self.optimizer not in ("adam", "sgd", "normalized") or self.optimizer_state not in (
            "reset",
            "keep",
        ):
            raise ValueError(
                f"optimizer={self.optimizer!r}, optimizer_state={self.optimizer_state!r}: expected adam, sgd or "
                "normalized, reset or keep"
            )

    def check(self) -> None:
        """ValueError for options that don't go together. Apart from the ranges, because some of them may come from the
        weights."""
        if self.optimizer_state == "keep" and (self.optimizer != "adam" or self.begins == "theta0"):
            raise ValueError(
                f"optimizer_state=keep, optimizer={self.optimizer}, begins={self.begins}: only Adam has a state, and "
                "only steps that begin at theta go on with it"
            )
        if self.replay and self.objective in ("conditional", "backward"):
            raise ValueError(f"replay={self.replay}, objective={self.objective}: expected 0 with it")

    @property
    def name(self) -> str:
        """Of the memory that writes so."""
        return NAMES[self.objective]

    @property
    def spec(self) -> LoraSpec:
        """The low-rank weights that the model must carry."""
        return LoraSpec(self.rank, self.alpha, self.targets)
