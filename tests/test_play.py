"""`python -m planner.play` through its own interface: messages and requests, on a tiny random model."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("starlette", reason="the page needs the extra `play`")
pytest.importorskip("httpx", reason="starlette's test client needs httpx")

from play_room import INTERVAL, PICK, PUT, TinyStudio, finished_rows, finished_run
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tiny import SIDE, frames, make_memory, make_model, make_text

from planner.play.__main__ import listening
from planner.play.ratings import CRITERIA, Ratings
from planner.play.runs import all_runs, served
from planner.play.server import PAGE, Play, application
from planner.play.session import sentence
from planner.play.studio import SHIPPED, Studio, shown_actions
from planner.play.worker import CancelledError, Worker
from tasks.commands import CommandError, compose
from tasks.cube_return import CubeReturn
from tasks.files import write_json, write_text
from world_model.memory.adapter import ADAPTER

ROOT = Path(__file__).resolve().parent.parent
HERE = {"origin": "http://127.0.0.1", "host": "127.0.0.1"}


class Page:
    """What a browser would do, and what it was told."""

    def __init__(self, socket):
        self.socket = socket
        self.token = self.until("hello")["page"]

    def send(self, kind: str, **more: Any) -> None:
        self.socket.send_json({"type": kind, **more})

    def until(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """Pass over messages until one of a kind; an error that is not waited for fails."""
        while True:
            message = self.socket.receive_json()
            if message["type"] == kind and wanted.items() <= message.items():
                return message
            assert message["type"] != "error", message

    def heard(self) -> list[dict[str, Any]]:
        """All messages until there is nothing more to do."""
        out = [self.socket.receive_json()]
        while out[-1]["type"] != "idle":
            out.append(self.socket.receive_json())
        return out

    def ask(self, kind: str, **more: Any) -> list[dict[str, Any]]:
        self.send(kind, **more)
        return self.heard()

    def begin(self, **more: Any) -> dict[str, Any]:
        given = {"task": "cube_return", "memory": "temp_lora", "source": "seed", "seed": 3, "simulator": None}
        return one(self.ask("start", **given | more), "episode")

    def act(self, text: str) -> dict[str, Any]:
        return one(self.ask("act", text=text), "chunk")["chunk"]


def one(messages: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [m for m in messages if m["type"] == kind]
    assert len(found) == 1, [m for m in messages if m["type"] in ("error", kind)]
    return found[0]


def picture(url: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def clip(chunk: dict[str, Any], side: str = "with") -> np.ndarray:
    return np.stack([picture(p) for p in chunk["frames"][side]])


@pytest.fixture
def studio(tmp_path: Path) -> TinyStudio:
    return TinyStudio(compose("play", [f"runs={tmp_path}", f"image_size={SIDE}", "chunks=6", "tabs=2"]))


@pytest.fixture
def play(studio: TinyStudio) -> Play:
    return Play(studio)


@pytest.fixture
def client(play: Play) -> Iterator[TestClient]:
    with TestClient(application(play, "127.0.0.1"), "http://127.0.0.1", headers=HERE) as client:
        yield client


@contextmanager
def opened(client: TestClient) -> Iterator[Page]:
    with client.websocket_connect("/connect", headers=HERE) as socket:
        yield Page(socket)


# --- an episode ----------------------------------------------------------------------------------


def test_chunks_are_those_of_the_world_model_and_arrive_frame_by_frame(client, studio):
    with opened(client) as page:
        first = picture(page.begin()["first"])
        page.send("act", text=f"  {PICK} ")
        heard = page.heard()
        second = page.act("something else entirely")
    steps = [(m["done"], m["of"]) for m in heard if m["type"] == "progress"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    streamed = [picture(m["picture"]) for m in heard if m["type"] == "frame"]
    chunk = one(heard, "chunk")["chunk"]
    assert chunk["text"] == PICK and set(chunk["seconds"]) == {"imagine", "remember"} and chunk["effect"] > 0
    assert np.array_equal(np.stack(streamed), clip(chunk))
    seed = CubeReturn().heldout_seeds[3]
    texts = [PICK, "something else entirely"]
    model = make_model(make_text(), make_memory())
    for shown, made in zip([chunk, second], model.stream(first, texts, seed), strict=True):
        assert abs(clip(shown).astype(int) - made.frames[0].astype(int)).max() <= 1  # frames decoded apart


def test_undo_takes_the_memory_back(client, play):
    with opened(client) as page:
        page.begin()
        page.act(PICK)
        before = play.pages[page.token].take.rollout
        second = page.act(PUT)
        page.act(PICK)
        told = one(page.ask("undo", chunk=1), "episode")
        now = play.pages[page.token].take.rollout
        assert len(told["chunks"]) == 1 and now is before and now.index == 1
        assert page.act(PUT)["frames"] == second["frames"]


def test_with_and_without_memory_side_by_side(client):
    """The same noise: alike until something is remembered. What is compared late is the same."""
    with opened(client) as page:
        page.begin(compare=True)
        chunks = [page.act(t) for t in (PICK, PUT)]
        page.begin()
        apart = [page.act(t) for t in (PICK, PUT)]
        late = one(page.ask("compare", on=True), "episode")
        assert late["compare"] and [c["frames"] for c in late["chunks"]] == [c["frames"] for c in chunks]
        assert not one(page.ask("compare", on=False), "episode")["compare"]
    assert np.array_equal(clip(chunks[0]), clip(chunks[0], "without"))
    assert not np.array_equal(clip(chunks[1]), clip(chunks[1], "without"))
    assert [c["frames"]["with"] for c in apart] == [c["frames"]["with"] for c in chunks]


def test_the_simulator_goes_along(client, play):
    with opened(client) as page:
        told = page.begin(simulator="expert")
        assert told["unit"] == "mm" and told["source"].startswith("layout 3: Move the ")
        assert page.act(PICK)["distance"] is None
        put = page.act(PUT)
        assert put["distance"] == 250.0 and len(put["frames"]["executed"]) == 4
        env = play.pages[page.token].take.simulation.env
        page.ask("undo", chunk=1)
        assert page.act(PUT)["frames"] == put["frames"] and env.resets == 2  # what came before is done again
        dance = page.act("dance")
        assert "executed" not in dance["frames"] and "usual actions only" in dance["note"]
        assert "stayed behind" in page.act(PICK)["note"]
        page.begin(simulator="reader")
        assert len(page.act("dance")["frames"]["executed"]) == 2


def test_a_picture_is_where_an_episode_starts(client):
    pixels = frames(1)[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    with opened(client) as page:
        assert (
            "Choose a picture first."
            in one(page.ask("start", task="cube_return", memory="none", source="picture", seed=0), "error")[
                "text"
            ]
        )
        answer = client.post(f"/open/{page.token}/picture", content=buffer.getvalue())
        assert answer.json()["changes"] == "" and np.array_equal(picture(answer.json()["picture"]), pixels)
        told = page.begin(source="picture", seed=0, memory="none")
        assert np.array_equal(picture(told["first"]), pixels) and told["simulator"] is None
        assert page.act(PICK)["effect"] is None


# --- one worker ----------------------------------------------------------------------------------


def test_a_running_chunk_can_be_cancelled_and_others_wait_in_line(client, studio, play):
    studio.steps = 2000
    with opened(client) as first, opened(client) as second:
        first.begin()
        second.send("start", task="cube_return", memory="none", source="seed", seed=0)
        second.until("idle")
        first.send("act", text=PICK)
        first.until("progress", done=1)
        for kind in ("undo", "save", "act", "compare", "start", "open"):
            first.send(kind, chunk=0, text=PUT)
            assert first.until("error")["text"] == "One thing at a time: wait for it, or cancel it."
        second.send("act", text=PICK)
        second.until("line", place=1)
        first.ask("cancel")
        assert play.pages[first.token].take.steps == []
        second.until("line", place=0)
        second.send("cancel")
        second.until("cancelled")
        second.until("idle")


def test_learning_can_be_cancelled(client, studio, play):
    studio.learning_steps = 2000
    with opened(client) as page:
        page.begin()
        page.send("act", text=PICK)
        page.until("phase", phase="remember")
        page.send("cancel")
        page.until("cancelled")
        page.until("idle")
        assert play.pages[page.token].take.steps == []


def test_who_leaves_the_line_is_told():
    worker, release, told = Worker(), threading.Event(), []
    owner = object()
    worker.submit(None, lambda job: release.wait(10), lambda place: None)
    job = worker.submit(
        owner,
        lambda job: told.append("ran"),
        lambda place: told.append(place),
        lambda: told.append("dropped"),
    )
    worker.cancel(owner)
    release.set()
    worker.close()
    assert told[-1] == "dropped" and "ran" not in told and job.cancelled.is_set()
    with pytest.raises(CancelledError):
        job.check()


def test_a_failing_job_ends_no_line(capfd):
    worker, done = Worker(), threading.Event()
    worker.submit(None, lambda job: 1 / 0, lambda place: None)
    worker.submit(None, lambda job: done.set(), lambda place: None)
    assert done.wait(10)
    worker.close()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_closing_the_page_frees_its_episode(client, play):
    with opened(client) as page:
        page.begin(simulator="expert")
        page.act(PICK)
        take = play.pages[page.token].take
        gone = weakref.ref(take), weakref.ref(take.rollout), weakref.ref(take.simulation)
        del take
    deadline = time.monotonic() + 300
    while any(ref() for ref in gone) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [ref() for ref in gone] == [None] * 3 and play.pages == {}


def test_there_is_room_for_so_many_pages(client):
    with opened(client), opened(client), client.websocket_connect("/connect", headers=HERE) as third:
        told = third.receive_json()
        assert told["type"] == "full" and "the most that tabs= allows" in told["text"]


# --- saved episodes ------------------------------------------------------------------------------


def test_a_saved_episode_opens_exactly_as_it_was(client, play, studio, tmp_path):
    with opened(client) as page:
        page.begin(simulator="expert", compare=True)
        chunks = [page.act(t) for t in (PICK, PUT)]
        name = one(page.ask("save"), "saved")["name"]
        old = play.pages[page.token].take
        after = page.act(PICK)
    folder = tmp_path / "play" / name
    assert {"episode.json", "video.mp4", "video.gif", "frames.safetensors"} <= {
        p.name for p in folder.iterdir()
    }
    seed = CubeReturn().heldout_seeds[3]
    assert (folder / f"memory/episode_{seed:06d}/last" / ADAPTER).is_file()
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pt", ".bin", ".npz")]
    with opened(client) as page:
        assert [s["captions"] for s in client.get("/choices").json()["saved"]] == [[PICK, PUT]]
        told = one(page.ask("open", name=name), "episode")
        take = play.pages[page.token].take
        assert told["chunks"] == chunks and told["compare"] and told["simulator"] == "expert"
        for a, b in zip(old.steps, take.steps, strict=False):
            assert torch.equal(a.imagined.rollout.past, b.imagined.rollout.past)
            memory = studio.stage("cube_return", "temp_lora", SHIPPED).model.memory
            states = [memory.state_dict(s.imagined.rollout.memory) for s in (a, b)]
            assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert page.act(PICK)["frames"] == after["frames"]
        assert (folder / "video.gif").read_bytes()[:4] == b"GIF8"


def test_an_episode_opens_with_its_own_precision_and_reader_alone(client, studio, tmp_path):
    with opened(client) as page:
        page.begin(simulator="reader")
        page.act("dance")
        name = one(page.ask("save"), "saved")["name"]
        record = tmp_path / "play" / name / "episode.json"
        told = json.loads(record.read_text())
        assert told["precision"] == "fp32" and told["inverse_dynamics"] == studio.reader_version
        studio.reader_version = "ffffffff"
        says = "inverse dynamics weights 0a1b2c3d, this page has ffffffff; start it with inverse_dynamics="
        assert says in refused(page, "open", name=name)
        studio.reader_version = told["inverse_dynamics"]
        studio.cfg.precision = "bf16"
        studio._open.clear()
        assert "made with precision=fp32, this page has bf16" in refused(page, "open", name=name)
        write_json(record, told | {"precision": 3})
        assert "its 'precision' can't be read" in refused(page, "open", name=name)
        older = {k: v for k, v in told.items() if k not in ("precision", "inverse_dynamics")}
        write_json(record, older)  # as it was written before they were recorded
        assert len(one(page.ask("open", name=name), "episode")["chunks"]) == 1


def test_what_is_cancelled_while_it_opens_never_begins(client, play, studio, monkeypatch):
    with opened(client) as page:
        page.begin(simulator="expert")
        page.act(PICK)
        name = one(page.ask("save"), "saved")["name"]
        session, made = play.pages[page.token], []
        take = session.take

        def opens(stage, by):
            made.append(TinyStudio.simulation(studio, stage, by))
            session.cancel()
            return made[-1]

        monkeypatch.setattr(studio, "simulation", opens)
        start = {"task": "cube_return", "memory": "temp_lora", "source": "seed", "seed": 1}
        for kind, more in {"open": {"name": name}, "start": start | {"simulator": "expert"}}.items():
            kinds = {m["type"] for m in page.ask(kind, **more)}
            assert "cancelled" in kinds and not kinds & {"episode", "error"}
            assert session.take is take and made[-1].env.closed
        assert not take.simulation.env.closed


def test_a_damaged_or_foreign_episode_is_one_sentence(client, tmp_path):
    with opened(client) as page:
        page.begin()
        page.act(PICK)
        name = one(page.ask("save"), "saved")["name"]
        record = tmp_path / "play" / name / "episode.json"
        told = json.loads(record.read_text())
        write_json(record, told | {"weights_version": "another"})
        assert "made with the weights another" in refused(page, "open", name=name)
        write_json(record, {k: v for k, v in told.items() if k != "seed"})
        assert "it lacks 'seed'" in refused(page, "open", name=name)
        for field, wrong in {"seed": "1", "chunks": 3, "compare": None, "simulator": [], "task": {}}.items():
            write_json(record, told | {field: wrong})
            assert "is damaged; its " in refused(page, "open", name=name)
            assert client.get("/choices").json()["saved"] == []
        write_json(record, told | {"chunks": [told["chunks"][0] | {"text": 1}]})
        assert "its 'text' can't be read" in refused(page, "open", name=name)
        options = told["options"] | {"model": told["options"]["model"] | {"sampling_steps": 7}}
        write_json(record, told | {"options": options})
        assert "other options (model.sampling_steps: 7 there, 3 here)" in refused(page, "open", name=name)
        for text in ("[]", "null", "", "{", "[" * 100_000):
            write_text(record, text)
            assert "can't be read" in refused(page, "open", name=name)
        write_json(record, told)
        state = tmp_path / "play" / name / "rollouts/chunk_00001.safetensors"
        state.write_bytes(state.read_bytes()[:100])
        assert "is damaged" in refused(page, "open", name=name)
        for wrong in ("../../etc", "", "20200101-000000-abcdef"):
            assert refused(page, "open", name=wrong) == "There is no such saved episode."
        assert page.act(PUT)["number"] == 2  # the episode that was there still is


def test_clips_of_the_open_episode(client):
    with opened(client) as page:
        page.begin(compare=True)
        assert client.get(f"/open/{page.token}/clip.mp4").status_code == 400
        page.act(PICK)
        mp4, gif = (client.get(f"/open/{page.token}/clip.{kind}") for kind in ("mp4", "gif"))
    assert mp4.content[4:8] == b"ftyp" and mp4.headers["content-type"] == "video/mp4"
    assert Image.open(io.BytesIO(gif.content)).n_frames == 3
    assert client.get("/open/nobody/clip.mp4").json()["error"].startswith("This page is not connected")


# --- what is refused -----------------------------------------------------------------------------


def refused(page: Page, kind: str, **more: Any) -> str:
    """The one sentence that answers."""
    text = one(page.ask(kind, **more), "error")["text"]
    assert text.endswith(".") and "\n" not in text and text[0].isupper() and "Traceback" not in text
    return text


def test_what_cannot_be_done_is_one_sentence(client, monkeypatch, capfd):
    with opened(client) as page:
        assert refused(page, "act", text=PICK) == "There is no episode yet; start one."
        assert "does not know" in refused(page, "explode")
        assert "does not know" in refused(page, "")
        good = {"task": "cube_return", "memory": "none", "source": "seed", "seed": 0}
        assert "chess is not offered" in refused(page, "start", **good | {"task": "chess"})
        assert "../x is not offered" in refused(page, "start", **good | {"memory": "../x"})
        for seed in (-1, 1.5, "1", True, None, 2**31):
            assert "whole number" in refused(page, "start", **good | {"seed": seed})
        assert "The seed is at most" in refused(page, "start", **good | {"seed": 2**31 - 1})
        assert "starts from" in refused(page, "start", **good | {"source": "/etc/passwd"})
        page.begin()
        assert "is empty" in refused(page, "act", text="  ")
        assert "longer than 300" in refused(page, "act", text="x" * 301)
        assert "control character" in refused(page, "act", text="a\x07b")
        assert "nothing to save" in refused(page, "save")
        assert "whole number from 0 to 0" in refused(page, "undo", chunk=1)
        for _ in range(6):
            page.act(PICK)
        assert "the most that chunks= allows" in refused(page, "act", text=PICK)
        monkeypatch.setattr("planner.play.session.save", lambda *a: 1 / 0)
        assert "ZeroDivisionError" in refused(page, "save")
    assert "Traceback" in capfd.readouterr().err
    with client.websocket_connect("/connect", headers=HERE) as socket:
        page = Page(socket)
        for text in ("no json", "[1]", '"' + "x" * 20_000 + '"', "[" * 10_000):
            socket.send_text(text)
            assert "does not know" in page.until_error()


def until_error(page: Page) -> str:
    return one(page.heard(), "error")["text"]


Page.until_error = until_error  # type: ignore[attr-defined]


def progressive(scans: int) -> bytes:
    """A small JPEG whose last scan comes again and again."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def upside_down() -> bytes:
    """A JPEG that is to be turned, and whose width is a text."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, "x" * 8
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue().replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")


def png(size: tuple[int, int], mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def test_uploads_are_bounded_and_decoded(client, monkeypatch):
    monkeypatch.setattr("world_model.picture.MOST_PIXELS", 10_000)
    bad = {
        "no PNG or JPEG": b"#!/bin/sh",
        "give a PNG": png((8, 8), kind="GIF"),
        "more than 10,000": png((200, 100)),
        "can't be read": png((64, 64))[:-30],
        "of mode I;16": png((8, 8), "I;16"),
        "more than 100 scans": progressive(100),
        "not an integer": upside_down(),
        "more than 8 MB": b"\x89PNG" + bytes(8 * 2**20),
    }
    with opened(client) as page:
        for says, data in bad.items():
            answer = client.post(f"/open/{page.token}/picture", content=data)
            assert answer.status_code == 400 and says in answer.json()["error"]
        for good in (png((9, 30), "RGBA"), progressive(20)):
            assert client.post(f"/open/{page.token}/picture", content=good).status_code == 200
    assert client.post("/open/nobody/picture", content=png((8, 8))).status_code == 400


def test_requests_of_other_sites_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/runs", headers={"origin": "http://evil.example"}).status_code == 403
    assert (
        client.post("/ratings", headers={"origin": "http://127.0.0.1:81"}, content=b"{}").status_code == 403
    )
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/connect", headers={"origin": "null"}):
        pass


def test_the_page_asks_nobody_else(client):
    shown = client.get("/")
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "unsafe" not in shown.headers["content-security-policy"]
    for path in PAGE.rglob("*"):
        if path.suffix in (".html", ".css", ".js", ".svg"):
            addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
            assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name
    for name in re.findall(r'(?:src|href)="([^"#]+)"', shown.text):
        assert client.get(f"/{name}").status_code == 200, name
    assert client.get("/page/../server.py").status_code == 404


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_text_stands_out_from_its_ground():
    """WCAG 2.1 AA: 4.5 to 1, and 3 to 1 for what shows where the focus is."""
    style = (PAGE / "style.css").read_text()
    found = re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", style)
    colours = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in found}
    pairs = [(text, "card") for text in ("ink", "faint", "with", "without", "executed")]
    pairs += [("ink", "paper"), ("faint", "paper"), ("ink", "soft"), ("faint", "soft"), ("bad", "bad-soft")]
    least = {pair: 4.5 for pair in pairs} | {("focus", ground): 3.0 for ground in ("card", "paper", "soft")}
    for (text, ground), enough in least.items():
        contrast = (luminance(colours[ground]) + 0.05) / (luminance(colours[text]) + 0.05)
        assert contrast >= enough, f"{text} on {ground}"


# --- runs ----------------------------------------------------------------------------------------


def test_finished_runs_are_listed_with_their_reports_and_tables(client, tmp_path):
    finished_run(tmp_path / "run/cube_return-1")
    rows = finished_rows(tmp_path / "evaluate/a", "theta_off", "do_nothing", "full", "own_row")
    table = {"task": "cube_return", "unit": "m", "rows": rows}
    write_json(tmp_path / "evaluate/a/result.json", table)
    finished_rows(tmp_path / "evaluate/b", "random_walk")
    write_text(tmp_path / "evaluate/c/finished/broken.json", "{")
    write_json(tmp_path / "1/2/3/4/result.json", table)
    write_json(tmp_path / "1/2/3/4/5/result.json", table)
    for i, text in enumerate(("[]", '{"summary": [], "parts": {}}', "[" * 100_000, '{"parts": "x"}')):
        write_text(tmp_path / f"run/odd-{i}/result.json", text)
    write_json(tmp_path / "run/odd-5/result.json", {"rows": {"full": 3}})
    write_text(tmp_path / "run/half/config.yaml", "")
    found = {r["name"]: r for r in client.get("/runs").json()}
    assert set(found) == {"run/cube_return-1", "evaluate/a", "evaluate/b", "1/2/3/4", "run/odd-5"}
    run, full, half = (found[n] for n in ("run/cube_return-1", "evaluate/a", "evaluate/b"))
    assert run["unit"] == "m" and run["report"] == "run/cube_return-1/report.html"
    assert [(r["label"], r["executed"]["mean"]) for r in run["rows"]] == [("temp_lora", 0.05)]
    assert full["finished"] and not half["finished"] and half["figures"] is None and full["unit"] == "m"
    labels = [
        "do nothing (computed)",
        "Temp-LoRA + slow-fast loop",
        "diagnostic: loop weights, Θ off",
        "own row",
    ]
    assert [r["label"] for r in full["rows"]] == labels and full["rows"][1]["executed"] == INTERVAL
    assert client.get(f"/runs/{full['figures']}").json() == table
    report = client.get(f"/runs/{run['report']}")
    assert report.text == "<p>report" and report.headers["content-security-policy"].startswith("sandbox;")
    assert client.get(f"/runs/{run['media'][0]}").headers["content-type"] == "image/png"


def test_no_file_outside_the_runs_is_served(client, tmp_path):
    runs = tmp_path / "runs"
    (tmp_path / "secret.json").write_text("{}")
    for name in ("a.json", "b.npz", ".hidden.json", ".git/c.json", "d.py", "e.yaml"):
        write_text(runs / name, "{}")
    (runs / "link.json").symlink_to(tmp_path / "secret.json")
    assert served(runs, "a.json") == (runs / "a.json").resolve()
    wrong = [
        "b.npz",
        ".hidden.json",
        ".git/c.json",
        "d.py",
        "link.json",
        "e.yaml",
        "../secret.json",
        "",
        "x.json",
        "a.json/",
    ]
    wrong += [str(tmp_path / "secret.json"), "./a.json", "//a.json", "a.json\0", "..\\secret.json"]
    (runs / "folder").symlink_to(tmp_path)
    (runs / "loop.json").symlink_to(runs / "loop.json")
    wrong += [
        "folder/secret.json",
        "loop.json",
        "x" * 5000 + ".json",
        "a/" * 3000 + "a.json",
        "a.json/../a.json",
    ]
    assert [n for n in wrong if served(runs, n)] == []
    for name in ("%2e%2e/secret.json", "..%2fsecret.json", "%2fetc%2fpasswd"):
        assert client.get(f"/runs/{name}").status_code == 404
    assert all_runs(tmp_path / "nowhere") == []


# --- ratings -------------------------------------------------------------------------------------


def scores(a: float, b: float) -> dict[str, dict[str, float]]:
    return {"a": dict.fromkeys(CRITERIA, a), "b": dict.fromkeys(CRITERIA, b)}


def test_ratings_are_blind_and_summed_up_by_condition(client, tmp_path):
    assert "nothing to compare yet" in client.post("/ratings/pair").json()["error"]
    with opened(client) as page:
        page.begin(compare=True)
        chunks = [page.act(t) for t in (PICK, PUT)]
        name = one(page.ask("save"), "saved")["name"]
    given = {"temp_lora": 0.9, "none": 0.2}
    for _ in range(4):
        pair = client.post("/ratings/pair").json()
        shown = json.dumps({k: v for k, v in pair.items() if k not in ("a", "b")})
        assert not any(word in shown for word in (*given, name, str(tmp_path), "swapped"))
        assert pair["captions"] == ["start", PICK, PICK, PUT, PUT] and len(pair["a"]) == 5
        first_is_memory = pair["a"][1:] == chunks[0]["frames"]["with"] + chunks[1]["frames"]["with"]
        order = ("temp_lora", "none") if first_is_memory else ("none", "temp_lora")
        body = {"token": pair["token"], "scores": scores(*(given[c] for c in order)), "rater": "Ada"}
        assert client.post("/ratings", content=json.dumps(body)).json() == {"saved": True}  # and no names
        again = client.post("/ratings", content=json.dumps(body))
        assert again.status_code == 400 and "not open any more" in again.json()["error"]
    told = client.get("/ratings").json()
    assert told["ratings"] == 4
    (task,) = told["tasks"]
    assert task["task"] == "cube_return" and task["pairs"] == 1 and told["raters"] == 1
    for condition in task["conditions"]:
        for criterion in CRITERIA:
            assert condition[criterion]["mean"] == pytest.approx(given[condition["memory"]])
    assert task["differences"][0]["quality"]["mean"] == pytest.approx(0.7)
    record = json.loads(next((tmp_path / "ratings").glob("*.json")).read_text())
    assert {r["memory"]: r["quality"] for r in record["ratings"]} == given and record["rater"] == "Ada"
    assert {r["weights"] for r in record["ratings"]} == {"test"}


@pytest.mark.parametrize(
    "wrong", [None, {}, {"a": {"quality": 2}}, scores(0.5, 1.5), scores(True, 0.5), scores(float("nan"), 0)]
)
def test_a_rating_is_from_0_to_1(tmp_path, wrong):
    ratings = Ratings(tmp_path)
    ratings._drawn["t"] = (None, False)  # type: ignore[assignment]
    with pytest.raises(CommandError, match=r"Rate the \w+ of clip [AB] from 0 to 1"):
        ratings.rate("t", wrong)
    assert "t" in ratings._drawn


# --- the command ---------------------------------------------------------------------------------


def test_every_option_is_read():
    code = "".join(p.read_text() for p in (ROOT / "planner/play").glob("*.py"))
    code += "".join((ROOT / f"world_model/{name}.py").read_text() for name in ("generate", "sampling"))
    options = {k for k in yaml.safe_load((ROOT / "configs/play.yaml").read_text()) if k != "defaults"}
    assert {o for o in options if not re.search(rf"cfg\.{o}\b|\"{o}\"", code)} == set()
    told = (ROOT / "docs/play.md").read_text()
    assert {o for o in options if f"`{o}`" not in told} == set()


def test_navigation_has_keys():
    from tasks.path_retrace import PathRetrace

    keys = {a["text"]: a["keys"][0] for a in shown_actions(PathRetrace())}
    assert keys == {"go forward": "w", "turn left": "a", "turn right": "d", "go back along the path": "s"}
    assert len(shown_actions(CubeReturn())) == 12 and not any(a["keys"] for a in shown_actions(CubeReturn()))


def test_a_port_in_use_is_one_line():
    with (
        listening("127.0.0.1", 0) as first,
        pytest.raises(CommandError, match=r"port=\d+ can't be listened on \(Address already in use\); give"),
    ):
        listening("127.0.0.1", first.getsockname()[1])


def test_other_choices_keep_the_commands_options(tmp_path):
    studio = Studio(compose("play", [f"runs={tmp_path}", "memory.steps=7", "sampling_steps=5"]))
    own, other = (studio.options("cube_return", m, SHIPPED) for m in ("temp_lora", "temp_lora_original"))
    assert own.memory.steps == 7 and own.memory.measure_effect and own.sampling_steps == 5
    assert other.memory.objective == "conditional" and other.sampling_steps == 5
    assert "measure_effect" not in studio.options("cube_return", "none", SHIPPED).memory


def test_what_training_left_in_the_runs_folder_can_be_chosen(tmp_path):
    model = make_model(make_text(), make_memory())
    for name, task in (("slowfast_loop/mine", "cube_return"), ("pretrain/walk", "path_retrace")):
        model.save_pretrained(tmp_path / name / "model")
        write_text(tmp_path / name / "config.yaml", f"task: {{name: {task}}}")
    for name, text in (("damaged", "{"), ("odd", "[]"), ("bare", "task: x")):
        write_text(tmp_path / "pretrain" / name / "config.yaml", text)
        write_text(tmp_path / "pretrain" / name / "model/world_model.json", "{}")
    write_text(tmp_path / "pretrain/none/model/world_model.json", "{}")
    small = ["memory.rank=2", "memory.alpha=2", "memory.targets=attention", "memory.optimizer=adam"]
    studio = Studio(compose("play", [f"runs={tmp_path}", f"image_size={SIDE}", *small]))
    offered = studio.offered()
    assert offered["cube_return"] == [SHIPPED, "slowfast_loop/mine"]
    stage = studio.stage("cube_return", "temp_lora", "slowfast_loop/mine")
    assert "slowfast_loop/mine/model" in stage.weights and stage.model.settings.name == "tiny"
    for wrong in ("pretrain/walk", "../x", str(tmp_path / "slowfast_loop/mine")):
        with pytest.raises(CommandError, match="is not offered here; have shipped, slowfast_loop/mine"):
            studio.check("cube_return", "temp_lora", wrong)
    given = Studio(compose("play", [f"runs={tmp_path}", "weights=/some/where"]))
    assert list(given.weights("cube_return")) == ["/some/where", "slowfast_loop/mine"]


def test_a_sentence_ends():
    assert [sentence(t) for t in ("no", "No.", "why?")] == ["No.", "No.", "why?".capitalize()]
