"""What an instruction certainly names, though it can't be read in full: things and places, or sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planner.decomposer.grammar import Words, tokenize
from tasks import PlanError, Subgoal

MANY = frozenset(
    tokenize("both all each every everything them they those their these other others rest pair two")
)
STANDS = frozenset(tokenize("is are was were stands standing sits sitting lies lying currently"))
ROUND = frozenset(  # with these a turn to a side that is not named may be meant
    tokenize("around round about opposite other reverse clockwise counterclockwise anticlockwise u")
)
SEEN_BEFORE = frozenset(tokenize("on your"))  # "on your left" is no turn,
SEEN_AFTER = frozenset(tokenize("of away back there now"))  # nor is "right away"


class NamedThings:
    """Objects and places that an instruction to move things names, though it can't be read in full."""

    def __init__(self, words: Words, lexicon: Mapping[str, Mapping[Words, str]]):
        self.objects = {name for _, _, name in _found(words, lexicon["OBJECT"])}
        asked = dict(_asked_places(words, lexicon))
        self.places = set(asked.values())
        self.puts = {  # "the red cube to the left": which thing goes where
            (name, asked[end]) for _, end, name in _found(words, lexicon["OBJECT"]) if end in asked
        }
        plural = next(_found(words, lexicon["OBJECTS"]), None)
        group = next(_found(words, lexicon["GROUP"]), None)
        self.others_may_move = not self.objects or bool(plural or group or MANY & set(words))

    def check(self, plan: Sequence[Subgoal]) -> None:
        moved, targets = {s.object for s in plan}, {s.target for s in plan}
        if self.objects - moved:
            raise PlanError(
                f"the instruction names {_all(self.objects - moved)}, but the plan never moves it"
            )
        if moved - self.objects and not self.others_may_move:
            raise PlanError(f"the plan moves {_all(moved - self.objects)}, which the instruction never names")
        if self.places - targets:
            raise PlanError(f"the instruction asks for {_all(self.places - targets)}; nothing is put there")
        for name, place in sorted(self.puts - {(s.object, s.target) for s in plan}):
            raise PlanError(
                f"the instruction asks for {name!r} to go to {place!r}; the plan does not put it there"
            )


class NamedSides:
    """Sides to which an instruction to walk turns, though it can't be read in full."""

    def __init__(self, words: Words, lexicon: Mapping[str, Mapping[Words, str]]):
        known = {phrase[0]: side for phrase, side in lexicon["SIDE"].items() if len(phrase) == 1}
        places = [i for i, word in enumerate(words) if word in known]
        seen = [
            i
            for i in places
            if SEEN_BEFORE & set(words[max(0, i - 2) : i]) or SEEN_AFTER & set(words[i + 1 : i + 2])
        ]
        self.known, self.said = set(known.values()), {known[words[i]] for i in places}
        self.asked = {known[words[i]] for i in places if i not in seen}
        self.others_may_come = not self.said or bool(ROUND & set(words))

    def check(self, plan: Sequence[Subgoal]) -> None:
        turned = {str(s.target) for s in plan} & self.known
        if self.asked - turned:
            raise PlanError(f"the instruction turns {_all(self.asked - turned)}, but the plan never does")
        if turned - self.said and not self.others_may_come:
            raise PlanError(f"the plan turns {_all(turned - self.said)}, which the instruction never says")


def _found(words: Words, phrases: Mapping[Words, str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, value) of every phrase that stands in ``words``."""
    for i in range(len(words)):
        for phrase, value in phrases.items():
            if phrase and words[i : i + len(phrase)] == phrase:
                yield i, i + len(phrase), value


def _asked_places(words: Words, lexicon: Mapping[str, Mapping[Words, str]]) -> Iterator[tuple[int, str]]:
    """Where "to the" and the like begin, and the places after them; not where something "is on the left", nor "left of"
    a thing."""
    for start, stop, _ in _found(words, lexicon["TO"]):
        stop += words[stop : stop + 1] in lexicon["DET"]
        for begin, end, place in _found(words, lexicon["TARGET"]):
            relative = words[end : end + 1] == ("of",) and words[end : end + 3] != ("of", "the", "table")
            if begin == stop and not relative and not (start and words[start - 1] in STANDS):
                yield start, place


def _all(names: set[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))
