"""Which of an instruction's words certainly ask for something, which leave a choice, and which forbid."""

from __future__ import annotations

from dataclasses import dataclass

from planner.decomposer.grammar import Words

DENIALS = frozenset(
    ["not", "don't", "dont", "doesn't", "never", "no", "avoid", "except", "neither", "nor", "skip"]
)
STILL = frozenset(["leave", "keep", "stay"])  # of a thing: it is not to move; of a side: where to walk
NEGATIONS = DENIALS | STILL | {"do", "without"}
EITHER = frozenset(
    ["or", "either", "whichever"]
)  # what stands before them is no more certain than what follows
CHOICES = EITHER | frozenset(["if", "unless", "when", "until", "while", "any", "some", "maybe", "perhaps"])
TURNS = frozenset(["but", "then", "instead"])  # beside punctuation, where something else begins to be said
GAP = "."  # stands where words are left out, so that no phrase reaches across


@dataclass(frozen=True)
class Certainty:
    """An instruction's words by what they say for certain, ``GAP`` in place of the others.

    Attributes:
        asked: outside what a negation or a choice may govern.
        open: what may or may not be asked for.
        denied: what a negation speaks of.
    """

    asked: Words
    open: Words
    denied: Words


def certainty(words: Words, denials: frozenset[str]) -> Certainty:
    """Sort an instruction's words. A negation or a choice governs what follows it in its clause, "or" and the like all
    of the clause.

    Args:
        denials: negations that forbid what they speak of; the others leave it open.
    """
    kinds: list[str] = []
    for clause in _clauses(words):
        kind = "open" if EITHER & set(clause) else "asked"
        for word in clause:
            if kind != "denied" and word in denials:
                kind = "denied"
            elif kind == "asked" and word in NEGATIONS | CHOICES:
                kind = "open"
            kinds.append(kind)
    kept = {
        kind: tuple(word if kind == own else GAP for word, own in zip(words, kinds, strict=True))
        for kind in ("asked", "open", "denied")
    }
    return Certainty(**kept)


def _clauses(words: Words) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for word in words:
        if word in TURNS or not word[0].isalnum():
            clauses.append([])
        clauses[-1].append(word)
    return clauses
