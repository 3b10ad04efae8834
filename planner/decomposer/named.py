"""What an instruction certainly names, though it can't be read in full: things and places, or sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planner.decomposer.certainty import DENIALS, STILL, TURNS, certainty
from planner.decomposer.grammar import Words, tokenize
from tasks import PlanError, Subgoal

ALL = frozenset(tokenize("both all each every everything them they those these pair two"))
MANY = ALL | frozenset(tokenize("their other others rest"))
STANDS = frozenset(tokenize("is are was were stands standing sits sitting lies lying currently"))
SOMEWHERE = frozenset(  # with these a place that is not named may be meant
    tokenize("opposite other away apart beside next near behind between corner anywhere somewhere elsewhere")
)
ROUND = frozenset(  # and with these a turn to such a side
    tokenize("around round about opposite other reverse clockwise counterclockwise anticlockwise u")
)
SEEN_BEFORE = frozenset(tokenize("on your"))  # "on your left" is no turn,
SEEN_AFTER = frozenset(tokenize("of away back there now"))  # nor is "right away"
NEXT = TURNS | frozenset(tokenize("and afterwards after finally later"))  # beside punctuation


class NamedThings:
    """Objects and places that an instruction to move things names, though it can't be read in full.

    What it asks for beyond doubt has to be in a plan; what it forbids, and what it never names, may not.
    """

    def __init__(self, words: Words, lexicon: Mapping[str, Mapping[Words, str]]):
        said = certainty(words, DENIALS | STILL)
        self.objects = _values(said.asked, lexicon["OBJECT"])
        self.forbidden = _values(said.denied, lexicon["OBJECT"]) - self.objects
        self.known = _values(words, lexicon["OBJECT"]) - self.forbidden
        asked = list(_asked_places(said.asked, lexicon))
        self.places = {place for _, _, place in asked}
        places = _values(said.asked, lexicon["TARGET"]) | _values(said.open, lexicon["TARGET"])
        self.said_places = set() if SOMEWHERE & set(words) else places
        begins = {start: place for start, _, place in asked}
        self.puts = {  # "the red cube to the left": which thing goes where
            (name, begins[end]) for _, end, name in _found(said.asked, lexicon["OBJECT"]) if end in begins
        }
        plural = _values(words, lexicon["OBJECTS"]) | _values(words, lexicon["GROUP"])
        self.others_may_move = not self.known or bool(plural or MANY & set(words))
        last = max((end for _, end, _ in asked), default=len(words))
        self.all_return = bool(ALL & set(said.asked[last:]))
        self.returned = {
            name
            for start, _, name in _found(said.asked, lexicon["OBJECT"])
            if any(word in NEXT or not word[0].isalnum() for word in words[last:start])
        }

    def check(self, plan: Sequence[Subgoal]) -> None:
        moved = {s.object for s in plan}
        if self.objects - moved:
            raise PlanError(
                f"the instruction names {_all(self.objects - moved)}, but the plan never moves it"
            )
        if moved & self.forbidden:
            raise PlanError(
                f"the plan moves {_all(moved & self.forbidden)}; the instruction says what not to do with it"
            )
        if moved - self.known and not self.others_may_move:
            raise PlanError(f"the plan moves {_all(moved - self.known)}, which the instruction never names")
        self._check_places(plan)
        wanted = (moved if self.all_return else self.returned) - {
            s.object for s in plan if s.kind == "return"
        }
        if wanted:
            raise PlanError(f"the instruction takes {_all(wanted)} back, but the plan does not")

    def _check_places(self, plan: Sequence[Subgoal]) -> None:
        targets = {s.target for s in plan if s.target is not None}
        if self.places - targets:
            raise PlanError(f"the instruction asks for {_all(self.places - targets)}; nothing is put there")
        if self.said_places and targets - self.said_places:
            extra = _all(targets - self.said_places)
            raise PlanError(f"the plan puts something at {extra}, which the instruction never says")
        for name, place in sorted(self.puts - {(s.object, s.target) for s in plan}):
            raise PlanError(
                f"the instruction asks for {name!r} to go to {place!r}; the plan does not put it there"
            )


class NamedSides:
    """Sides to which an instruction to walk turns, though it can't be read in full."""

    def __init__(self, words: Words, lexicon: Mapping[str, Mapping[Words, str]]):
        known = {phrase[0]: side for phrase, side in lexicon["SIDE"].items() if len(phrase) == 1}
        said = certainty(words, DENIALS)
        self.known = set(known.values())
        self.said = {known[word] for word in (*said.asked, *said.open) if word in known}
        self.asked = {known[word] for i, word in enumerate(said.asked) if word in known and _turns(words, i)}
        named = {known[word] for word in words if word in known}
        self.others_may_come = not named or bool(ROUND & set(words))

    def check(self, plan: Sequence[Subgoal]) -> None:
        turned = {str(s.target) for s in plan} & self.known
        if self.asked - turned:
            raise PlanError(f"the instruction turns {_all(self.asked - turned)}, but the plan never does")
        if turned - self.said and not self.others_may_come:
            raise PlanError(f"the plan turns {_all(turned - self.said)}, which the instruction never says")


def _turns(words: Words, at: int) -> bool:
    """Is the side that stands there one to turn to, and not one that is only spoken of?"""
    return not (SEEN_BEFORE & set(words[max(0, at - 2) : at]) or SEEN_AFTER & set(words[at + 1 : at + 2]))


def _values(words: Words, phrases: Mapping[Words, str]) -> set[str]:
    return {value for _, _, value in _found(words, phrases)}


def _found(words: Words, phrases: Mapping[Words, str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, value) of every phrase that stands in ``words``."""
    for i in range(len(words)):
        for phrase, value in phrases.items():
            if phrase and words[i : i + len(phrase)] == phrase:
                yield i, i + len(phrase), value


def _asked_places(words: Words, lexicon: Mapping[str, Mapping[Words, str]]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, place) of "to the left" and the like; not where something "is on the left", nor "left of" a
    thing."""
    for start, stop, _ in _found(words, lexicon["TO"]):
        stop += words[stop : stop + 1] in lexicon["DET"]
        for begin, end, place in _found(words, lexicon["TARGET"]):
            relative = words[end : end + 1] == ("of",) and words[end : end + 3] != ("of", "the", "table")
            if begin == stop and not relative and not (start and words[start - 1] in STANDS):
                yield start, end, place


def _all(names: set[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))
