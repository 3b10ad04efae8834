"""A small context-free grammar over words: all readings of a sentence, not just the first one.

Knows nothing of tasks: a grammar is text, one rule a line, and a lexicon gives each terminal its phrases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Words = tuple[str, ...]
Tree = tuple  # (symbol, child, child, …); a terminal is (NAME, value)


def tokenize(text: str) -> Words:
    """Lower-case words, numbers and single punctuation marks; hyphens inside words split them."""
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.lower().replace("\u2019", "'"))
    return tuple(re.findall(r"[a-z]+(?:'[a-z]+)*|\d+(?:[.,]\d+)*|[^\sa-z\d]", text))


def phrases(values: Mapping[str, str] | str) -> dict[Words, str]:
    """``"put|put down"`` or ``{value: "phrase|phrase"}`` to ``{words: value}``."""
    table = (
        {text: text for text in values.split("|")}
        if isinstance(values, str)
        else {text: value for value, texts in values.items() for text in texts.split("|")}
    )
    return {tokenize(text): value for text, value in table.items()}


def read_rules(text: str) -> dict[str, list[list[str]]]:
    """``name = a B? c | d`` lines to ``{name: [[a, c], [a, B, c], [d]]}``; no left recursion.

    Capitals are terminals, ``X?`` may be left out, and a line that begins with ``|`` goes on with the
    rule above it.
    """
    rules: dict[str, list[list[str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if not line.startswith("|"):
            name, line = (part.strip() for part in line.split("=", 1))
        for alternative in line.removeprefix("|").split("|"):
            bodies: list[list[str]] = [[]]
            for symbol in alternative.split():
                kept = [[*body, symbol.rstrip("?")] for body in bodies]
                bodies = bodies + kept if symbol.endswith("?") else kept
            rules.setdefault(name, []).extend(bodies)
    return rules


@dataclass
class Grammar:
    """Rules, a lexicon, and the symbols that leave no trace in a tree.

    Trees that differ only in silent symbols are one reading.
    """

    rules: dict[str, list[list[str]]]
    lexicon: dict[str, dict[Words, str]]
    silent: frozenset[str]
    words: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        used = {s for bodies in self.rules.values() for body in bodies for s in body}
        missing = used - set(self.rules) - set(self.lexicon)
        if missing:
            raise ValueError(f"the grammar uses symbols that nothing defines: {sorted(missing)}")
        self.words = frozenset(w for table in self.lexicon.values() for phrase in table for w in phrase)

    def readings(self, words: Words, start: str) -> tuple[list[Tree], int]:
        """All trees of ``start`` that use every word, and how many words the furthest attempt read."""
        memo: dict[tuple[str, int], list[tuple[Tree | None, int]]] = {}
        furthest = 0

        def terminal(name: str, i: int) -> list[tuple[Tree | None, int]]:
            found = [(p, v) for p, v in self.lexicon[name].items() if words[i : i + len(p)] == p]
            return [(None if name in self.silent else (name, v), i + len(p)) for p, v in found]

        def sequence(body: list[str], i: int) -> list[tuple[Words, int]]:
            partial: list[tuple[tuple, int]] = [((), i)]
            for symbol in body:
                grown = [
                    (children if tree is None else (*children, tree), k)
                    for children, j in partial
                    for tree, k in derive(symbol, j)
                ]
                partial = list(dict.fromkeys(grown))
            return partial

        def derive(name: str, i: int) -> list[tuple[Tree | None, int]]:
            nonlocal furthest
            if (name, i) not in memo:
                if name in self.lexicon:
                    found = terminal(name, i)
                else:
                    bodies = [done for body in self.rules[name] for done in sequence(body, i)]
                    found = [(None if name in self.silent else (name, *c), j) for c, j in bodies]
                memo[name, i] = list(dict.fromkeys(found))
                furthest = max([furthest, *(j for _, j in found)])
            return memo[name, i]

        return [tree for tree, end in derive(start, 0) if end == len(words) and tree is not None], furthest
