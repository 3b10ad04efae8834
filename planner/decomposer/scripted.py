"""A scripted decomposer: reads instructions with a small grammar over the task's own vocabulary.

Here are the words for things that are moved and returned; those for paths are in ``paths.py``.

Every word must be read. What can't be read in full, names something unknown, says what *not* to do or
can be read in two ways is refused with the reason: a plan is never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.decomposer.base import Plan, told_plan
from planner.decomposer.certainty import CHOICES, NEGATIONS
from planner.decomposer.grammar import Grammar, Tree, Words, phrases, read_rules, tokenize
from planner.decomposer.language import Language
from planner.decomposer.named import NamedThings
from planner.decomposer.paths import PATHS
from planner.decomposer.reading import Reading
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
        "same": "in the same order|in that order|in order|one by one|one after the other|one after another|"
        "one at a time",
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
        "start": "originally|initially|at first|at the start|at the beginning|in the beginning|to begin with|"
        "first",
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
    # what carries no choice, or whose meaning the rule's own name says
    symbol
    for line in (
        "OPEN FIRST PUNCT COLON STOP AND THEN DET PICK PICKED UP DOWN PUT RETURN AGAIN LATE TO SIDE",
        "WHERE WHICH SPOT RESPECTIVELY opening join listed then_",
    )
    for symbol in line.split()
)


class ScriptedDecomposer:
    """Reads instructions such as "Move the red cube to the right, then return it to where it was."

    Understands tasks whose subgoal kinds are pick, put and return, or go, turn and return. Things return in
    the order in which they moved, unless the instruction names another order.
    """

    name = "scripted"

    def decompose(self, task: Task, instruction: str, frame: np.ndarray | None = None) -> Plan:
        """See :class:`planner.decomposer.Decomposer`; ``frame`` is not looked at."""
        if told := told_plan(task, instruction):
            return told
        words = tokenize(instruction)
        language = language_of(task.vocabulary)
        grammar = language.grammar(task.vocabulary)
        refusal = f"can't read the instruction {' '.join(instruction.split())[:200]!r}: "
        if not words or len(words) > MAX_WORDS:
            raise PlanError(f"{refusal}expected 1 to {MAX_WORDS} words, got {len(words)}")
        for word in words:
            if word not in grammar.words:
                raise PlanError(refusal + _unknown(word, language, task.vocabulary))
        trees, read = grammar.readings(words, "instruction")
        if not trees:
            raise PlanError(f"{refusal}{_stuck(words, read, language)}")
        plans: dict[tuple[Subgoal, ...], tuple[str, ...]] = {}
        errors: list[str] = []
        for tree in trees:
            try:
                steps, said = language.read(task, tree)
                task.check_plan(steps)
                plans.setdefault(tuple(steps), tuple(said))
            except PlanError as error:
                errors.append(str(error))
        if not plans:
            raise PlanError(refusal + errors[0])
        if len(plans) > 1:
            texts = " — or — ".join(", ".join(s.text for s in plan) for plan in plans)
            raise PlanError(f"{refusal}it can be read in {len(plans)} ways: {texts}")
        [(subgoals, notes)] = plans.items()
        return Plan(subgoals, "scripted", notes)


def language_of(words: Vocabulary) -> Language:
    """The language that speaks of a task's subgoals. Raises PlanError if there is none."""
    for language in (THINGS, PATHS):
        if language.kinds <= set(words.kinds):
            return language
    known = "pick, put and return, or go, turn and return"
    raise PlanError(f"decomposer=scripted reads {known}; this task has {', '.join(words.kinds)}")


def build_grammar(words: Vocabulary) -> Grammar:
    """The grammar of one task's objects and places."""
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


def _read(task: Task, tree: Tree) -> tuple[Sequence[Subgoal], Sequence[str]]:
    reading = Reading(task, tree)
    return reading.subgoals, reading.notes


THINGS = Language(
    frozenset(("pick", "put", "return")),
    build_grammar,
    _read,
    lambda words: f"objects are {', '.join(words.objects)}, places {', '.join(words.targets)}",
    "say only what to move and what to return",
    NamedThings,
)


def _unknown(word: str, language: Language, words: Vocabulary) -> str:
    if word in NEGATIONS:
        return f"{word!r} says what not to do, or what to leave; {language.advice}"
    if word in CHOICES:
        return f"{word!r} leaves a choice; say exactly what to do"
    return f"unknown word {word!r}; {language.known(words)}"


def _stuck(words: Words, read: int, language: Language) -> str:
    if read >= len(words):
        return f"it stops in the middle; {language.advice}"
    before, after = " ".join(words[:read][-6:]), " ".join(words[read : read + 6])
    return f"no sense in {after!r}" + (f" after {before!r}" if before else "")
