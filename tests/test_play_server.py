"""The page's server as a process would meet it: over real connections, and from those who mean no good."""

from __future__ import annotations

import errno
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the page needs the extra `play`")

import uvicorn
from play_room import PICK, PUT, TinyStudio, finished_run
from starlette.testclient import TestClient
from tiny import SIDE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.first_chunk import play as play_episodes
from planner.benchmark_sections import first_chunk_section
from planner.play import server
from planner.play.__main__ import listening
from planner.play.runs import all_runs
from planner.play.server import Play, application
from planner.play.session import Session
from planner.results import write_results
from tasks.commands import CommandError, compose
from tasks.files import write_json

PATIENCE = 900  # s; a busy machine
BUFFER = 65_536  # bytes that a connection holds


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    play = Play(TinyStudio(compose("play", [f"runs={tmp_path}", f"image_size={SIDE}", "tabs=2"])))
    yield play
    play.worker.close()


@pytest.fixture
def address(play: Play) -> Iterator[str]:
    """``host:port`` of a server in a thread of its own."""
    listener = listening("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # of every connection
    config = uvicorn.Config(
        application(play, "127.0.0.1"), log_level="warning", ws_max_size=2**16, timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=60)


def opened(address: str, **more: Any) -> ClientConnection:
    """A page that takes little before it is read."""
    host, _, port = address.partition(":")
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    wire.connect((host, int(port)))
    origin: Any = f"http://{address}"
    return connect(
        f"ws://{address}/connect", sock=wire, origin=origin, max_size=2**26, open_timeout=PATIENCE, **more
    )


def wait(until: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def closed_by(page: ClientConnection) -> int:
    """The code with which the server closes, whatever it says before."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            page.recv(PATIENCE)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def test_a_message_that_is_too_long_or_binary_ends_its_own_page_alone(address, play):
    with opened(address) as good, opened(address) as long, opened(address) as third:
        assert json.loads(good.recv(PATIENCE))["type"] == "hello"
        assert "close one" in json.loads(third.recv(PATIENCE))["text"] and closed_by(third) == 1013
        long.send("x" * 2**17)
        assert closed_by(long) == 1009
        wait(lambda: len(play.pages) == 1)
        with opened(address) as binary:
            binary.send(b"\x80\x00")
            assert closed_by(binary) == 1003
        good.send('{"type": "nothing"}')
        assert "does not know" in json.loads(good.recv(PATIENCE))["text"]
    wait(lambda: not play.pages)


def test_who_talks_and_never_listens_is_cut_off(address, play, monkeypatch):
    monkeypatch.setattr(server, "MOST_WAITING", 200)
    flood = opened(address, close_timeout=1)
    wait(lambda: len(play.pages) == 1)

    def talk() -> None:
        with suppress(ConnectionClosed):
            while True:
                flood.send("{}")

    threading.Thread(target=talk, daemon=True).start()
    wait(lambda: not play.pages)
    flood.close()


def test_the_server_frees_what_pages_have_when_it_ends(play):
    headers = {"origin": "http://127.0.0.1", "host": "127.0.0.1"}
    start = {"type": "start", "task": "cube_return", "memory": "none", "source": "seed", "seed": 0}
    with (
        TestClient(application(play, "127.0.0.1"), "http://127.0.0.1") as client,
        client.websocket_connect("/connect", headers=headers) as page,
    ):
        page.send_json({**start, "simulator": "expert"})
        while page.receive_json()["type"] != "idle":
            pass
        (session,) = play.pages.values()
        env = session.take.simulation.env
    assert session.take is None and env.closed and not play.worker._thread.is_alive()


@pytest.mark.parametrize(
    ("host", "asked", "answer"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "LOCALHOST:1", 200),
        ("127.0.0.1", "127.0.0.1.evil.example", 400),
        ("127.0.0.1", "[::1", 400),
        ("127.0.0.1", "", 400),
        ("::1", "[::1]:7860", 200),
        ("::1", "evil.example", 400),
        ("0.0.0.0", "192.0.2.7:7860", 200),
        ("::", "[2001:db8::7]:7860", 200),
        ("0.0.0.0", "localhost:7860", 200),
        ("0.0.0.0", f"{socket.gethostname()}:7860", 200),
        ("0.0.0.0", "rebound.example:7860", 400),
        ("::", "rebound.example", 400),
        ("0:0::0", "rebound.example", 400),
        ("0.0.0.0", "", 400),
    ],
)
def test_the_server_answers_to_its_own_name(play, host, asked, answer):
    client = TestClient(application(play, host))
    same = {"host": asked, "origin": f"http://{asked}"}  # as a name that is pointed here would say
    assert client.get("/choices", headers=same).status_code == answer


@pytest.mark.parametrize("origin", ["http://[::1", "http://[x]", "null", "127.0.0.1"])
def test_an_origin_that_is_none_is_refused(play, origin):
    client = TestClient(application(play, "127.0.0.1"))
    headers = {"host": "127.0.0.1", "origin": origin}
    assert client.get("/choices", headers=headers).status_code == 403


def test_every_failure_of_a_request_is_one_sentence(play, tmp_path, monkeypatch, capfd):
    client = TestClient(application(play, "127.0.0.1"), raise_server_exceptions=False)
    headers = {"host": "127.0.0.1", "origin": "http://127.0.0.1"}
    full = OSError(errno.ENOSPC, "No space left on device", "a.json")

    def broken(error: Exception) -> Any:
        def raises(*_: Any) -> None:
            raise error

        return raises

    for error, says in (
        (full, "A.json: No space left on device."),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ):
        monkeypatch.setattr(play.ratings, "draw", broken(error))
        answer = client.post("/ratings/pair", headers=headers)
        assert answer.status_code == 500 and says in answer.json()["error"]
        assert answer.json()["error"].endswith(".") and "\n" not in answer.json()["error"]
    assert capfd.readouterr().err.count("Traceback") == 1  # of the bug alone


def test_a_run_that_is_deleted_meanwhile_is_no_failure(tmp_path, monkeypatch):
    finished_run(tmp_path / "run/a")
    write_json(tmp_path / "evaluate/b/finished/full.json", {"executed": None})
    read = Path.read_text

    def read_and_gone(path: Path, *how: Any, **named: Any) -> str:
        text = read(path, *how, **named)
        path.unlink()
        return text

    monkeypatch.setattr(Path, "read_text", read_and_gone)
    assert {run["name"] for run in all_runs(tmp_path)} == {"run/a", "evaluate/b"}


def test_what_a_closed_page_had_is_freed_before_others_get_theirs(play):
    """Else whoever reloads holds an episode in each of the pages that wait to be freed."""
    busy, release, seen = threading.Event(), threading.Event(), list[bool]()
    heard = queue.Queue[dict[str, Any]]()
    session = Session(play.studio, play.worker, heard.put)
    session.receive({"type": "start", "task": "cube_return", "memory": "none", "source": "seed", "seed": 0})
    while heard.get(timeout=PATIENCE)["type"] != "idle":
        pass
    assert session.take is not None
    play.worker.submit("one", lambda job: (busy.set(), release.wait(PATIENCE)), lambda place: None)
    assert busy.wait(PATIENCE)
    play.worker.submit("another", lambda job: seen.append(session.take is None), lambda place: None)
    session.close()
    release.set()
    wait(lambda: bool(seen))
    assert seen == [True]


def test_an_empty_host_is_not_every_host():
    with pytest.raises(CommandError, match=r"host= is empty; give host=127\.0\.0\.1"):
        listening("", 0)


def test_the_benchmark_presses_the_buttons(address, tmp_path):
    figures = play_episodes(address, 1, memory="temp_lora", simulator="expert", compare=True)
    for seconds in (figures["seconds"], figures["very_first"]):
        assert seconds["begin"] > 0
        for number in (1, 2):
            first, imagined, whole = (
                seconds[f"chunk_{number}_{part}"] for part in ("first_frame", "imagined", "whole")
            )
            assert 0 < first <= imagined < whole
    assert figures["memory"] == "temp_lora" and figures["compare"] and figures["rounds"] == 1
    origin = {"command": "c", "commit": "d", "hardware": "e", "threads": 2, "load_before": 0.1}
    shown = first_chunk_section(figures | origin)
    assert f"| first chunk: first frame | {figures['very_first']['chunk_1_first_frame']:.2f} |" in shown
    assert shown.count("within 5 s") == 1 and "| second chunk: whole |" in shown
    assert "on the page, side by side" in shown and "*Side by side* ticked" in shown
    assert "whole chunk, imagined without memory, learned and executed." in shown
    alone = first_chunk_section(figures | origin | {"compare": False, "simulator": None})
    assert "*Side by side* not ticked" in alone and "whole chunk, learned." in alone
    write_json(tmp_path / "first_chunk.json", figures | origin | {"compare": False})
    write_json(tmp_path / "first_chunk_compare.json", figures | origin)
    page = write_results(tmp_path, tmp_path / "page.md").read_text()
    assert page.count("## How long one waits on the page") == 2 and page.count("page, side by side") == 1


def test_two_pages_go_on_with_one_saved_episode(address):
    start = {"type": "start", "task": "cube_return", "memory": "temp_lora", "source": "seed", "seed": 1}

    def told(page: ClientConnection, kind: str, **message: Any) -> dict[str, Any]:
        page.send(json.dumps(message))
        found: dict[str, Any] = {}
        while (heard := json.loads(page.recv(PATIENCE)))["type"] != "idle":
            assert heard["type"] != "error", heard
            found = heard if heard["type"] == kind else found
        return found

    with opened(address) as first, opened(address) as second:
        for page in (first, second):
            page.recv(PATIENCE)
        told(first, "episode", **start, simulator=None)
        told(first, "chunk", type="act", text=PICK)
        name = told(first, "saved", type="save")["name"]
        twins = [told(page, "episode", type="open", name=name) for page in (first, second)]
        assert twins[0] == twins[1]
        apart = told(second, "chunk", type="act", text="dance")["chunk"]
        told(second, "episode", type="undo", chunk=0)
        same = [told(first, "chunk", type="act", text=PUT)["chunk"]["frames"]]
        told(second, "episode", type="open", name=name)
        same.append(told(second, "chunk", type="act", text=PUT)["chunk"]["frames"])
        assert same[0] == same[1] != apart["frames"]
