"""What is rated on the page, by whom, and what it comes to: pairs of runs that share a layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page needs the extra `play`")

from play_room import finished_run
from tiny import frames

from planner.loop import PlanResult
from planner.play.pairs import Condition, pairs_below
from planner.play.ratings import CRITERIA, Ratings
from planner.records import save_result
from tasks import Episode, Segment
from tasks.commands import CommandError
from tasks.cube_return import CubeReturn
from tasks.files import read_json, write_json
from tasks.task import Score
from world_model.action_lines import ActionError

BASE, LOOP = "weights/base (aaaaaaaa)", "weights/loop (bbbbbbbb)"
TASK = CubeReturn()


def run_of(folder: Path, memory: str, weights: str, *seeds: int, look: int = 0, empty: bool = False) -> None:
    """A finished run on some held-out layouts; ``look`` decides what is imagined and, from 100, the start."""
    result = read_json(finished_run(folder, memory) / "result.json")
    write_json(folder / "result.json", result | {"parts": result["parts"] | {"weights": weights}})
    for number in seeds:
        layout = TASK.layout(TASK.heldout_seeds[number])
        plan = () if empty else layout.plan[:1]
        start, chunk = frames(1, seed=number + 100 * (look // 100)), frames(2, seed=look)
        shown, score = np.concatenate([start, chunk]), Score({"red": 0.1}, {"red": True}, {"red": True})
        episode = Episode(
            shown, np.zeros((2, 8), np.float32), (Segment(0, 2, layout.plan[0].text),),
            np.zeros((3, 1, 3), np.float32), ("red cube",),
        )  # fmt: skip
        save_result(
            folder / "episodes",
            PlanResult(layout, plan, shown, episode, np.zeros((3, 2, 3)), score, score),
        )


def rate(ratings: Ratings, worth: dict[int, float], rater: str = "") -> str:
    """Rate the next pair by what its clips show; its name."""
    drawn = ratings.draw()
    pair, swapped = ratings._drawn[drawn["token"]]
    looks = [worth[ord(source[0].parent.name[0])] for source in pair.sources]
    a, b = reversed(looks) if swapped else looks
    scores = {"a": dict.fromkeys(CRITERIA, a), "b": dict.fromkeys(CRITERIA, b)}
    ratings.rate(drawn["token"], scores, rater)
    return pair.name


def test_none_on_loop_weights_is_not_none_on_the_base(tmp_path):
    for name, memory, weights in (("a", "temp_lora", LOOP), ("b", "none", LOOP), ("c", "none", BASE)):
        run_of(tmp_path / "run" / name, memory, weights, 0, look=ord(name))
    ratings, worth = Ratings(tmp_path), {ord("a"): 0.9, ord("b"): 0.5, ord("c"): 0.2}
    assert len(pairs_below(tmp_path)) == 3
    for _ in range(3):
        rate(ratings, worth)
    (told,) = ratings.summary()["tasks"]
    means = {Condition(c["memory"], c["weights"]): c["quality"]["mean"] for c in told["conditions"]}
    assert means == pytest.approx(
        {Condition("temp_lora", "bbbbbbbb"): 0.9, Condition("none", "aaaaaaaa"): 0.2}
        | {Condition("none", "bbbbbbbb"): 0.5}
    )
    gaps = {
        (d["first"]["memory"], d["first"]["weights"], d["second"]["weights"]): d["quality"]["mean"]
        for d in told["differences"]
    }
    assert gaps == pytest.approx(
        {
            ("temp_lora", "bbbbbbbb", "aaaaaaaa"): 0.7,
            ("temp_lora", "bbbbbbbb", "bbbbbbbb"): 0.4,
            ("none", "aaaaaaaa", "bbbbbbbb"): -0.3,
        }
    )
    assert told["task"] == "cube_return"


def test_a_pair_that_is_rated_again_counts_once(tmp_path):
    for name, memory in (("a", "temp_lora"), ("b", "none")):
        run_of(tmp_path / "run" / name, memory, LOOP, 0, 1, look=ord(name))
    ratings = Ratings(tmp_path)
    names = [rate(ratings, {ord("a"): a, ord("b"): 0.1}, "Ada") for a in (0.9, 0.5)]
    assert len(set(names)) == 2
    first = names[0]
    for _ in range(6):  # one pair, again and again
        record = next(p for p in (tmp_path / "ratings").glob("*.json") if read_json(p)["pair"] == first)
        write_json(record.with_name(f"again-{_}.json"), read_json(record) | {"rater": "Bea"})
    told = ratings.summary()
    (task,) = told["tasks"]
    assert told["ratings"] == task["ratings"] == 8 and task["pairs"] == 2 and told["raters"] == 2
    quality = task["differences"][0]["quality"]
    assert quality["n"] == 2 and quality["mean"] == pytest.approx((0.8 + 0.4) / 2)
    assert (quality["low"], quality["high"]) == pytest.approx((0.4, 0.8))


def test_tasks_are_told_apart_and_older_ratings_still_count(tmp_path):
    scores = dict.fromkeys(CRITERIA, 0.5)

    def record(name: str, **more: Any) -> None:
        write_json(tmp_path / f"ratings/{name}.json", {"pair": name, "rated": "then", **more})

    record("old", ratings=[{"condition": "temp_lora", **scores}, {"condition": "none", **scores}])
    for task in ("cube_return", "path_retrace"):
        rows = [{"memory": m, "weights": "aaaaaaaa", **scores} for m in ("temp_lora", "none")]
        record(task, task=task, rater="", ratings=rows)
    record("three", ratings=[{"condition": "x", **scores}] * 3)
    told = Ratings(tmp_path).summary()
    assert [t["task"] for t in told["tasks"]] == ["", "cube_return", "path_retrace"]
    assert told["ratings"] == 3 and told["raters"] == 0
    assert told["tasks"][0]["conditions"][0]["weights"] == "" and told["tasks"][1]["pairs"] == 1


def test_only_what_begins_alike_is_shown(tmp_path):
    run_of(tmp_path / "run/a", "temp_lora", LOOP, 0, 1, look=1)
    run_of(tmp_path / "run/b", "none", LOOP, 0, look=100)  # another start
    run_of(tmp_path / "run/c", "none", BASE, 1, look=2, empty=True)  # imagined nothing
    assert len(pairs_below(tmp_path)) == 2
    with pytest.raises(CommandError, match="nothing to compare yet"):
        Ratings(tmp_path).draw()
    run_of(tmp_path / "run/d", "none", BASE, 1, look=3)
    assert len(Ratings(tmp_path).draw()["a"]) == 3


def test_a_rater_may_give_a_name(tmp_path):
    for name, memory in (("a", "temp_lora"), ("b", "none")):
        run_of(tmp_path / "run" / name, memory, LOOP, 0, look=ord(name))
    ratings, worth = Ratings(tmp_path), {ord("a"): 1.0, ord("b"): 0.0}
    for wrong, says in (
        ("x" * 61, "longer than 60"),
        ("a\x00b", "control character"),
        ("a\u202eb", "control"),
    ):
        with pytest.raises((CommandError, ActionError), match=says):
            rate(ratings, worth, wrong)
    assert not (tmp_path / "ratings").exists()
    rate(ratings, worth, "  ../../Zoë <b>  ")
    (path,) = (tmp_path / "ratings").iterdir()
    told = json.loads(path.read_text())
    assert told["rater"] == "../../Zoë <b>" and "Zo" not in path.name
    assert told["task"] == "cube_return" and told["shown_first"]["weights"] == "bbbbbbbb"
