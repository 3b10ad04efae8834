"""Argument names of a package's classes and functions, read off its source without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Made:
    """One class: its bases by their last names, and its methods' argument names."""

    bases: tuple[str, ...]
    methods: dict[str, list[str]]


class Source:
    """What the ``.py`` files below some folders define.

    Attributes:
        functions: argument names of module-level functions by name.
        classes: by name; a name that several modules define has all of them.
    """

    def __init__(self, *folders: Path):
        self.functions: dict[str, list[str]] = {}
        self.classes: dict[str, list[Made]] = {}
        for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = _args(node)
                elif isinstance(node, ast.ClassDef):
                    bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                    defined = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                    methods = {n.name: _args(n) for n in defined if not _passes_on(n)}
                    self.classes.setdefault(node.name, []).append(Made(bases, methods))

    def method(self, owner: str, name: str, seen: frozenset[str] = frozenset()) -> list[list[str]]:
        """The argument names of a method in each class of that name, or else in what it inherits."""
        found = [made.methods[name] for made in self.classes.get(owner, []) if name in made.methods]
        for base in (b for made in self.classes.get(owner, []) for b in made.bases if not found):
            if base not in seen:
                found += self.method(base, name, seen | {owner})
        return found


def differences(ours: Source, real: Source, renamed: dict[str, str], own: frozenset[str]) -> list[str]:
    """One line for each thing of a stand-in's that the real source lacks, or that takes other arguments there.

    A stand-in may leave out arguments at the end. Private methods are a stand-in's own affair.

    Args:
        renamed: real name of a class that is called otherwise here.
        own: what the stand-in alone has: a class, a function or ``Class.method``.
    """
    wrong = []
    for name, args in ours.functions.items():
        if name not in own and real.functions.get(name, [None])[: len(args)] != args:
            wrong.append(f"{name}({', '.join(args)}): really {real.functions.get(name, 'missing')}")
    for owner, made in ((o, m) for o, all_made in ours.classes.items() if o not in own for m in all_made):
        there = renamed.get(owner, owner)
        if there not in real.classes:
            wrong.append(f"class {owner}: missing")
            continue
        for name, args in made.methods.items():
            if f"{owner}.{name}" in own or (name.startswith("_") and name != "__init__"):
                continue
            found = real.method(there, name) or ([["self"]] if name == "__init__" else [])
            if not any(theirs[: len(args)] == args for theirs in found):
                wrong.append(f"{owner}.{name}({', '.join(args)}): really {found or 'missing'}")
    return wrong


def _passes_on(node: ast.FunctionDef) -> bool:
    """Whether a method takes ``self, *args, **kwargs``: what it may be given, what it inherits from says."""
    return bool(node.args.vararg and node.args.kwarg) and _args(node) == ["self"]


def _args(node: ast.FunctionDef) -> list[str]:
    return [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
