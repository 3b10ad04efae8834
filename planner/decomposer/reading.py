"""The meaning of one reading of an instruction: who "it" is, what is away, which subgoals follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from planner.decomposer.grammar import Tree
from tasks import PlanError, Subgoal, Task


class Reading:
    """Carries out one tree of the scripted grammar on paper.

    Attributes:
        subgoals: in order; not yet checked by the task.
        notes: how open words were read.

    Raises:
        PlanError: a word could mean several things, or something the instruction never moved.
    """

    def __init__(self, task: Task, tree: Tree):
        self.task, self.objects = task, task.vocabulary.objects
        self.subgoals: list[Subgoal] = []
        self.notes: list[str] = []
        self.held: str | None = None
        self.last: tuple[str, ...] = ()  # what the step before spoke of
        self.away: dict[str, list[str]] = {}  # object → places it was put since it left, in order of leaving
        self.ended = False
        self._walk(tree)

    # --- steps -------------------------------------------------------------------------------

    def _walk(self, tree: Tree) -> None:
        steps: dict[str, Callable[..., None]] = {
            "pick": self._pick, "move": self._move, "carry": self._carry, "onward": self._onward,
            "back": self._back, "undo": self._undo, "undo_to": self._undo,
        }  # fmt: skip
        name, *children = tree
        if name == "latest":
            children = [c for c in children if c[0] != "LAST"]
        if name in ("pick", "move", "carry", "onward") and self.ended:
            raise PlanError("something moves after what was to come last")
        if name in steps:
            steps[name](*children)
        else:
            for child in children:
                self._walk(child)
        if name == "latest":
            self.ended = True

    def _pick(self, thing: Tree) -> None:
        [name] = self._resolve(thing)
        if self.held == name:
            raise PlanError(f"the {name} is already in the gripper")
        self._do("pick", name)
        self.held, self.last = name, (name,)

    def _move(self, *parts: Tree) -> None:
        pairs = list(_chain(parts[-1]))
        told = [(name, _value(place)) for ref, place in pairs for name in self._resolve(ref, remember=True)]
        names = [name for name, _ in told]
        if len(set(names)) < len(names):
            raise PlanError("one object is told to go to two places at once; say 'then' between them")
        if parts[0][0] == "group" and set(self._group(_value(parts[0]), False)) != set(names):
            raise PlanError(f"a place is given for {_list(names)}, but more or others were to move")
        for name, target in told:
            self._put(name, target)
        self.last = tuple(names)

    def _carry(self, named: Tree, places: Tree) -> None:
        names, targets = self._resolve(named), [_value(p) for p in _chain_places(places)]
        if len(names) != len(targets):
            raise PlanError(f"{len(names)} objects but {len(targets)} places; expected one place for each")
        for name, target in zip(names, targets, strict=True):
            self._put(name, target)
        self.last = tuple(names)

    def _onward(self, place: Tree) -> None:
        if len(self.last) != 1 or self.subgoals[-1].kind != "put":
            raise PlanError(f"unclear what goes to {_value(place)!r}; name it, and say 'move' or 'put'")
        self._put(self.last[0], _value(place))

    def _back(self, *parts: Tree) -> None:
        order = next((_value(p) for p in parts if p[0] == "order"), "")
        items = next(p for p in parts if p[0] in ("items", "carried"))
        needs_place = items[0] == "carried" and parts[0][0] != "BACK"
        waiting: list[str] = []  # named, but not yet told where to
        chosen: list[tuple[str, bool]] = []  # object, whether "the start" was said
        for _, thing, *marks in _chain(items):
            names = self._resolve(thing, returning=True, remember=True)
            waiting += names
            if thing[-1][0] == "OBJECTS" and len(waiting) < 2:
                raise PlanError(f"the {_list(waiting)} is one thing, but was named in the plural")
            origin = next((m for m in marks if m[0] == "origin"), None)
            each = thing[1][0] == "group" and _value(thing) == "each"
            run = self._origin(origin, waiting, names, each) if origin else waiting
            if len(run) < len(waiting) and needs_place:
                raise PlanError(f"no place given for the {_list(waiting[: -len(run)])}")
            if marks:
                chosen += [(n, origin is not None and _says_start(origin)) for n in waiting]
                waiting = []
        if waiting and needs_place:
            raise PlanError(f"no place given for the {_list(waiting)}")
        self._return_all(chosen + [(n, False) for n in waiting], order)

    def _undo(self, *parts: Tree) -> None:
        origin = next((p for p in parts if p[0] == "origin"), None)
        if not self.last:
            raise PlanError("unclear what goes back; name it")
        if origin:
            self._origin(origin, list(self.last), list(self.last))
        self._return_all([(n, origin is not None and _says_start(origin)) for n in self.last], "")

    def _return_all(self, chosen: Sequence[tuple[str, bool]], order: str) -> None:
        names = [n for n, _ in chosen]
        if len(set(names)) < len(names):
            raise PlanError(f"{_list(names)}: something is returned twice in one step")
        if order and len(names) < 2:
            raise PlanError(f"an order is given for {_list(names)} alone")
        for name, says_start in reversed(chosen) if order == "reverse" else chosen:
            places = self.away.get(name, [])
            if len(places) > 1 and not says_start:
                raise PlanError(
                    f"the {name} was moved more than once: unclear whether it returns to {places[-2]!r} or "
                    "to its start; say 'to its original place'"
                )
            self._take(name)
            self._do("return", name)
            self.away.pop(name, None)
            self.held = None
        self.last = tuple(names)

    def _put(self, name: str, target: str) -> None:
        if self.away.get(name, [None])[-1] == target:
            raise PlanError(f"the {name} already stands at {target!r}")
        self._take(name)
        self._do("put", name, target)
        self.away.setdefault(name, []).append(target)
        self.held = None

    def _take(self, name: str) -> None:
        if self.held != name:
            self._do("pick", name)

    def _do(self, kind: str, name: str, target: str | None = None) -> None:
        self.subgoals.append(self.task.subgoal(kind, name, target))

    # --- who is meant ------------------------------------------------------------------------

    def _resolve(self, tree: Tree, returning: bool = False, remember: bool = False) -> list[str]:
        """Names that a reference means, in order; ``remember`` lets a later 'the other' look back at it."""
        kind, *rest = tree
        if kind in ("ref", "thing", "single", "who"):
            names = self._resolve(rest[0], returning)
        elif kind == "named":
            names = [n for child in rest for n in self._resolve(child, returning)]
            if len(set(names)) < len(names):
                raise PlanError(f"{_list(names)}: the same thing is named twice")
        elif kind in ("OBJECT", "OBJECTS"):
            names = [rest[0]]
        elif kind == "group":
            names = self._group(_value(tree), returning)
        elif kind == "OTHER":
            others = [o for o in self.objects if o not in self.last]
            names = self._one("the other", others if self.last else [])
        else:
            word = "it" if kind == "IT" else f"the {rest[0]}"
            around = list(dict.fromkeys([*self.last, *self.away]))
            names = self._one(word, [self.held] if self.held else around)
        if remember:
            self.last = tuple(names)
        return names

    def _one(self, word: str, candidates: list[str]) -> list[str]:
        if not candidates and len(self.objects) == 1 and word != "it":
            candidates = list(self.objects)
        if len(candidates) != 1:
            none = "has nothing before it that it could mean"
            why = f"could be the {_list(candidates, 'or')}" if candidates else none
            raise PlanError(f"{word!r} {why}; name the object")
        self.notes.append(f"{word!r} is the {candidates[0]}")
        return candidates

    def _group(self, word: str, returning: bool) -> list[str]:
        names = list(self.away) if returning else list(self.objects)
        if word == "both" and not returning and len(self.objects) != 2:
            names = list(self.away)
        fits = len(names) == 2 if word == "both" else len(names) >= (1 if word == "everything" else 2)
        if not fits:
            what = "stand away from their start" if returning else "are on the table"
            raise PlanError(f"{word!r} does not fit: {_list(names) or 'none'} {what}; name the objects")
        self.notes.append(f"{word!r} are the {_list(names)}")
        return names

    def _origin(self, origin: Tree, run: list[str], own: list[str], each: bool = False) -> list[str]:
        """Which of the things named so far go where ``origin`` says; refuses 'it' for two and the like."""
        number = "any"
        for part in origin[1:]:
            if part[0] == "who" and part[1][0] != "WHO":
                one = part[1] == ("single", ("IT", "it"))
                if not one and set(self._resolve(part)) not in (set(run), set(own)):
                    raise PlanError(f"the {_list(run)} can't go where the {_list(self._resolve(part))} was")
                number = "one" if one else number
            elif part[0] in ("who", "POSS"):
                number = _value(part)
        number = "any" if each else number
        if (number == "one" and len(own) > 1) or (number == "many" and len(run) < 2):
            said = "it was" if len(run) < 2 else "they were"
            raise PlanError(f"'it', 'they', 'its' and 'their' don't fit the {_list(run)}; say 'where {said}'")
        return own if number == "one" else run


def _value(tree: Tree) -> str:
    """The word that a tree ends in."""
    while isinstance(tree, tuple):
        tree = tree[-1]
    return tree


def _chain(tree: Tree) -> Iterable[Tree]:
    """``(pairs, pair, (pairs, …))`` to its pairs; each as ``(ref, place)`` or as an item tree."""
    _, first, *rest = tree
    yield first[1:] if first[0] == "pair" else first
    for other in rest:
        yield from _chain(other)


def _chain_places(tree: Tree) -> Iterable[Tree]:
    for child in tree[1:]:
        if child[0] == "places":
            yield from _chain_places(child)
        else:
            yield child


def _says_start(origin: Tree) -> bool:
    return any(part[0] in ("WHEN", "WAS", "AGE") and part[1] == "start" for part in origin[1:])


def _list(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(names)
