"""A scripted decomposer: reads instructions with a small grammar over the task's own vocabulary.

Every word must be read. What can't be read in full, names something unknown, says what *not* to do or
can be read in two ways is refused with the reason: a plan is never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from planner.decomposer.base import Plan
from planner.decomposer.grammar import Grammar, Tree, Words, phrases, read_rules, tokenize
from tasks import PlanError, Subgoal, Task, Vocabulary

MAX_WORDS = 120

# Another word for a last word of an object's name, for a place; the vocabulary adds its own words.
NOUNS = {"cube": "block|box|brick|one", "block": "cube|box|brick|one"}
PLACES = {"left": "left hand", "right": "right hand", "back": "rear"}

LEXICON: dict[str, dict[str, str] | str] = {
    "OPEN": "please|kindly|can you|could you|would you|can you please|could you please|would you please|"
    "i want you to|i would like you to|i'd like you to|you should|your task is to|the robot should|now",
    "FIRST": "first|firstly|first of all|to start|to begin|to begin with",
    "PICK": "pick up|pick|grab|grasp|take|take hold of|lift|lift up|get",
    "PICKED": "pick|lift|take",
    "UP": "up",
    "PUT": "put|place|move|bring|take|set|shift|carry|transfer|relocate|lay|position",
    "DOWN": "down",
    "RETURN": "return|restore|send back",
    "BACK": "back|right back|straight back",
    "AGAIN": "again|once again|once more",
    "LATE": "afterwards|afterward|after that|later|later on|too|as well|please",
    "LAST": "finally|lastly|last|at last|at the end|in the end|at the very end|to finish|to end with",
    "ORDER": {
        "same": "in the same order|in that order|in order|one by one|one after the other|one after another|one at a time",
        "reverse": "in reverse order|in reversed order|in the reverse order|in the opposite order|"
        "in opposite order|in reverse",
    },
    "PUNCT": ",|;|.",
    "COLON": ":|,",
    "STOP": ".|!|?",
    "AND": "and|&",
    "THEN": "then|after that|after this|afterwards|afterward|next|subsequently|later|later on|thereafter|"
    "then afterwards|then later|once that is done|once this is done|when that is done|once done|when done",
    "DET": "the|a|that|this",
    "IT": "it|that one|this one",
    "TO": "to|onto|on to|on|at|in|into|over to|toward|towards",
    "SIDE": "side|hand side|side of the table|hand side of the table|of the table|end of the table",
    "RESPECTIVELY": "respectively",
    "WHERE": "where|exactly where|right where|just where|precisely where",
    "WHICH": "where|that|in which|at which",
    "WHO": {"one": "it", "many": "they|both|both of them|all of them", "any": "each|each one|each of them"},
    "WAS": {
        "once": "was|were|stood|came from|has been|have been|had been|used to be|was standing|were standing|"
        "used to stand|had stood|sat",
        "start": "started|started from|started out|began|started off",
    },
    "WHEN": {
        "once": "before|earlier|previously",
        "start": "originally|initially|at first|at the start|at the beginning|in the beginning|to begin with|first",
    },
    "POSS": {"one": "its|its own", "many": "their|their own|their respective", "any": "the"},
    "AGE": {
        "once": "previous|former|old|earlier",
        "start": "original|initial|starting|start|first",
    },
    "SPOT": "place|position|spot|location|point|places|positions|spots|locations|points",
}

GROUPS = {
    "both": "both|both of them|them both|the two|the two of them|these two",
    "all": "all|all of them|them all",
    "each": "each|each of them|each one",
    "them": "them|those|these",
    "everything": "everything",
}
GROUPS_OF = {  # with the plural of a noun that all objects share
    "both": "both {n}|both the {n}|both of the {n}|the two {n}|two {n}|these two {n}",
    "all": "all {n}|all the {n}|all of the {n}|all three {n}|the three {n}",
    "them": "the {n}|those {n}|these {n}",
}
EVERY_OF = "each {n}|every {n}|each of the {n}s"

RULES = """
instruction = opening? clause rest STOP?
opening = OPEN | OPEN? FIRST PUNCT? | FIRST OPEN
rest =
     | join clause rest
     | join latest rest
     | then_ onward rest
     | then_ undo rest
     | join undo_to rest
clause = action LATE?
latest = LAST PUNCT? action | action PUNCT? LAST
action = pick | move | carry | back
pick = PICK single | PICKED single UP
move = PUT DOWN? pairs | PUT group COLON pairs
pairs = pair | pair join pairs
pair = ref DOWN? place
carry = PUT named places PUNCT? RESPECTIVELY
places = place AND place | place listed places
onward = place
back = RETURN items order? | PUT BACK items order? | PUT carried order?
items = item | item join items
carried = item | item join carried
item = thing DOWN? BACK? AGAIN? origin? AGAIN?
order = PUNCT? ORDER
undo = BACK AGAIN?
undo_to = BACK AGAIN? origin
ref = single | group | named
single = IT | OTHER | DET? OBJECT | DET? NOUN
thing = single | group | DET? OBJECTS
named = single listed named | single listed single | single listed DET? OBJECTS
group = GROUP
place = TO DET? TARGET SIDE? | BARE
origin = TO? WHERE who WHEN? WAS WHEN?
       | TO? DET? SPOT WHICH? who WHEN? WAS WHEN?
       | TO? POSS AGE? SPOT
who = WHO | named | single
join = PUNCT | PUNCT? AND | then_
listed = AND | PUNCT | PUNCT AND
then_ = PUNCT? AND? THEN PUNCT?
"""
SILENT = frozenset(
    "OPEN FIRST PUNCT COLON STOP AND THEN DET PICK PICKED UP DOWN PUT RETURN AGAIN LATE TO SIDE WHERE WHICH SPOT "
    "RESPECTIVELY opening join listed then_".split()
)

NEGATIONS = frozenset("not don't dont do doesn't never no without avoid except neither nor leave keep stay skip".split())
CHOICES = frozenset("or either if unless when until while whichever any some maybe perhaps".split())


class ScriptedDecomposer:
    """Reads instructions such as "Move the red cube to the right, then return it to where it was."

    Understands tasks whose subgoal kinds are pick, put and return. Things return in the order in which
    they moved, unless the instruction names another order.
    """

    def decompose(self, task: Task, instruction: str, frame: np.ndarray | None = None) -> Plan:
        """See :class:`planner.decomposer.Decomposer`; ``frame`` is not looked at."""
        words = tokenize(instruction)
        grammar = build_grammar(task.vocabulary)
        refusal = f"can't read the instruction {' '.join(instruction.split())[:200]!r}: "
        if not words or len(words) > MAX_WORDS:
            raise PlanError(f"{refusal}expected 1 to {MAX_WORDS} words, got {len(words)}")
        for word in words:
            if word not in grammar.words:
                raise PlanError(refusal + _unknown(word, task.vocabulary))
        trees, read = grammar.readings(words, "instruction")
        if not trees:
            raise PlanError(f"{refusal}{_stuck(words, read)}")
        plans: dict[tuple[Subgoal, ...], tuple[str, ...]] = {}
        errors: list[str] = []
        for tree in trees:
            try:
                reading = _Reading(task, tree)
                task.check_plan(reading.subgoals)
                plans.setdefault(tuple(reading.subgoals), tuple(reading.notes))
            except PlanError as error:
                errors.append(str(error))
        if not plans:
            raise PlanError(refusal + errors[0])
        if len(plans) > 1:
            texts = " — or — ".join(", ".join(s.text for s in plan) for plan in plans)
            raise PlanError(f"{refusal}it can be read in {len(plans)} ways: {texts}")
        [(subgoals, notes)] = plans.items()
        return Plan(subgoals, "scripted", notes)


def build_grammar(words: Vocabulary) -> Grammar:
    """The grammar of one task's vocabulary.

    Raises:
        PlanError: the task's subgoals are not those that the grammar speaks of.
    """
    if not {"pick", "put", "return"} <= set(words.kinds):
        raise PlanError(f"decomposer=scripted reads pick, put and return; this task has {', '.join(words.kinds)}")
    lexicon = {name: phrases(table) for name, table in LEXICON.items()}
    lexicon |= {name: {} for name in ("OBJECT", "OBJECTS", "NOUN", "OTHER", "GROUP", "TARGET", "BARE")}
    last_words = {o.split()[-1] for o in words.objects}
    for name in words.objects:
        *marks, noun = name.split()
        for word in [noun, *filter(None, NOUNS.get(noun, "").split("|"))]:
            lexicon["OBJECT"][(*marks, word)] = name
            lexicon["OBJECTS"][(*marks, word + "s")] = name
        if marks:
            lexicon["OBJECT"][tuple(marks)] = name
    lexicon["GROUP"] = phrases(GROUPS)
    lexicon["OTHER"] = phrases("the other")
    if len(last_words) == 1 and all(" " in o for o in words.objects):
        [noun] = last_words
        for word in [noun, *filter(None, NOUNS.get(noun, "").split("|"))]:
            lexicon["GROUP"] |= phrases({v: t.format(n=word + "s") for v, t in GROUPS_OF.items()})
            lexicon["GROUP"] |= phrases({"each": EVERY_OF.format(n=word)})
            lexicon["OTHER"] |= phrases(f"the other {word}")
            lexicon["NOUN"] |= phrases({word: word}) if word != "one" else {}
    for target in words.targets:
        lexicon["TARGET"] |= phrases({target: "|".join(filter(None, [target, PLACES.get(target)]))})
    lexicon["BARE"] = {p: v for p, v in lexicon["TARGET"].items() if p not in lexicon["BACK"]}
    return Grammar(read_rules(RULES), lexicon, SILENT)


def _unknown(word: str, words: Vocabulary) -> str:
    if word in NEGATIONS:
        return f"{word!r} says what not to do, or what to leave; say only what to move and what to return"
    if word in CHOICES:
        return f"{word!r} leaves a choice; say exactly what to do"
    return f"unknown word {word!r}; objects are {', '.join(words.objects)}, places {', '.join(words.targets)}"


def _stuck(words: Words, read: int) -> str:
    if read >= len(words):
        return "it stops in the middle; say what to move where, and what to return"
    before, after = " ".join(words[:read][-6:]), " ".join(words[read : read + 6])
    return f"no sense in {after!r}" + (f" after {before!r}" if before else "")


class _Reading:
    """Carries out one tree on paper: who 'it' is, what is away, which subgoals follow."""

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
                    f"the {name} was moved more than once: unclear whether it returns to {places[-2]!r} or to its "
                    "start; say 'to its original place'"
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
            names = self._one("the other", [o for o in self.objects if o not in self.last] if self.last else [])
        else:
            word = "it" if kind == "IT" else f"the {rest[0]}"
            names = self._one(word, [self.held] if self.held else list(dict.fromkeys([*self.last, *self.away])))
        if remember:
            self.last = tuple(names)
        return names

    def _one(self, word: str, candidates: list[str]) -> list[str]:
        if not candidates and len(self.objects) == 1 and word != "it":
            candidates = list(self.objects)
        if len(candidates) != 1:
            why = f"could be {_list(candidates, 'or')}" if candidates else "has nothing before it that it could mean"
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
        if number == "one" and len(own) > 1 or number == "many" and len(run) < 2:
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
    name, first, *rest = tree
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
