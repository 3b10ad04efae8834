"""The words for paths: "Go forward twice, turn left, go forward, then go back along the path." """

from __future__ import annotations

from collections.abc import Sequence

from planner.decomposer.grammar import Grammar, Tree, phrases, read_rules
from planner.decomposer.language import Language
from planner.decomposer.named import NamedSides
from tasks import Subgoal, Task, Vocabulary

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WAYS = {"forward": "forward|forwards|ahead|straight|straight on|straight ahead|on"}
SIDES = "{side}|to the {side}|to your {side}|{side} once|a quarter to the {side}|by 90 degrees to the {side}|" \
    "{side} by 90 degrees|90 degrees to the {side}|90 degrees {side}|{side} 90 degrees"  # fmt: skip

LEXICON: dict[str, str] = {
    "OPEN": "please|kindly|can you|could you|would you|can you please|could you please|would you please|"
    "would you kindly|i want you to|i would like you to|you should|your task is to|now|first|to begin with|to start|"
    "first of all",
    "GO": "go|walk|move|head|continue|keep going|keep walking|step|run|travel|proceed|march|advance",
    "ADVANCE": "advance",
    "TURN": "turn|rotate|then turn|spin|look",
    "MAKE": "make a|take a|do a",
    "MADE": "turn|quarter turn",
    "AND": "and|&",
    "PUNCT": ",|;|.",
    "THEN": "then|after that|afterwards|next|once more|and then|after which|finally|lastly|in the end|at the end",
    "STOP": ".|!|?",
    "RETURN": "go back|walk back|come back|get back|head back|move back|travel back|run back|return|"
    "go all the way back|walk all the way back|come all the way back|make your way back|find your way back|"
    "find the way back|go home",
    "RETRACE": "retrace|go back along|walk back along|return along|backtrack along",
    "FOLLOW": "follow",
    "BACKTRACK": "backtrack|retrace your steps|retrace your path|retrace your way|retrace your route",
    "PATH": "the path|the same path|your path|that path|the path you took|the path you came|the route|the same route|"
    "the way|the same way|the way you came|the same way you came|your own path|the path you walked",
    "ALONG": "along|by|on|over|via|down",
    "BACK": "back|backward|backwards|all the way back",
    "HOME": "to the start|to your start|to the beginning|to where you started|to where you began|to where you were|"
    "to where you came from|to the starting point|to your starting point|to the point where you started|"
    "to the place where you started|to the starting place|to the first place|to where you started from|home",
}
RULES = """
instruction = opening? steps join back STOP?
opening = OPEN PUNCT?
steps = step | step join steps
step = go | turn
go = GO WAY COUNT? | GO COUNT WAY | GO STEPS | ADVANCE TIMES
turn = TURN SIDE TIMES? | MAKE SIDE MADE TIMES? | MAKE MADE SIDE
back = RETURN along? HOME? | RETRACE PATH BACK? HOME? | BACKTRACK along? BACK? HOME?
     | FOLLOW PATH BACK HOME? | FOLLOW PATH HOME
along = ALONG? PATH
join = PUNCT | PUNCT? AND | PUNCT? AND? THEN PUNCT?
"""
SILENT = frozenset(  # what carries no choice
    symbol
    for line in (
        "OPEN opening GO ADVANCE TURN MAKE MADE AND PUNCT THEN STOP join",
        "RETURN RETRACE FOLLOW BACKTRACK PATH ALONG BACK HOME along",
    )
    for symbol in line.split()
)


def path_grammar(words: Vocabulary) -> Grammar:
    """The grammar of directions: sides are the targets but ``forward``."""
    lexicon = {name: phrases(text) for name, text in LEXICON.items()}
    lexicon["WAY"] = phrases(WAYS)
    lexicon["SIDE"] = phrases({t: SIDES.format(side=t) for t in words.targets if t not in WAYS})
    steps = {str(n): _counted(n, word, "step") for n, word in enumerate(NUMBERS, 1)}
    times = {str(n): _counted(n, word, "time") for n, word in enumerate(NUMBERS, 1)}
    for n, word in {"1": "once", "2": "twice", "3": "thrice"}.items():
        times[n].append(word)
    lexicon["STEPS"] = phrases({n: "|".join(said) for n, said in steps.items()})
    lexicon["TIMES"] = phrases({n: "|".join(said) for n, said in times.items()})
    lexicon["COUNT"] = lexicon["STEPS"] | lexicon["TIMES"]
    return Grammar(read_rules(RULES), lexicon, SILENT)


def _counted(n: int, word: str, unit: str) -> list[str]:
    """``two steps``, ``2 steps``, ``two more steps``, ``for two steps``, …"""
    unit += "s" * (n > 1)
    said = [f"{number}{more} {unit}" for number in (word, str(n)) for more in ("", " more")]
    return [*said, *(f"for {s}" for s in said)]


def read_path(task: Task, tree: Tree) -> tuple[Sequence[Subgoal], Sequence[str]]:
    """The steps out as they are told, then the way back; how many steps that takes the task knows."""
    subgoals: list[Subgoal] = []
    [agent] = task.vocabulary.objects

    def walk(node: Tree) -> None:
        kind, *parts = node
        if kind in ("go", "turn"):
            told: dict[str, str] = dict(parts)
            target = told.get("WAY", "forward") if kind == "go" else told["SIDE"]
            count = next((told[key] for key in ("COUNT", "STEPS", "TIMES") if key in told), "1")
            subgoals.extend([task.subgoal(kind, agent, target)] * int(count))
        elif kind == "back":
            subgoals.append(task.subgoal("return", agent))
        else:
            for part in parts:
                walk(part)

    walk(tree)
    return task.completed(subgoals), ()


PATHS = Language(
    frozenset(("go", "turn", "return")),
    path_grammar,
    read_path,
    lambda words: f"directions are {', '.join(words.targets)}",
    "say only where to go and turn, and at the end to go back along the path",
    NamedSides,
)
