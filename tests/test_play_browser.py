"""The page of `python -m planner.play` in a real headless Chromium, on a tiny random model."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import BROWSERS

pytest.importorskip("starlette", reason="the page needs the extra `play`")
pytest.importorskip("playwright", reason="needs the extra `browser-test`")

import uvicorn
from play_room import PICK, PUT, TinyStudio, finished_rows, finished_run, navigation
from playwright import sync_api as playwright
from tiny import SIDE

from planner.play.__main__ import listening
from planner.play.server import Play, application
from planner.play.studio import Studio
from tasks.commands import compose

pytestmark = [pytest.mark.slow, pytest.mark.browser]
PATIENCE = 900_000  # ms; a busy machine
MADE = ("temp_lora, weights test", "none, weights test")  # how the clips to rate were made


FAINT = (Path(__file__).parent / "faint_texts.js").read_text()


@dataclass
class Room:
    """A server in a thread of its own."""

    server: uvicorn.Server
    play: Play
    address: str


@contextmanager
def serving(studio: Studio) -> Iterator[Room]:
    listener = listening("127.0.0.1", 0)
    play = Play(studio)
    app = application(play, "127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield Room(server, play, f"http://127.0.0.1:{listener.getsockname()[1]}/")
    server.should_exit = True
    thread.join(timeout=60)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    finished_run(tmp_path / "run/cube_return-1")
    finished_rows(tmp_path / "evaluate/cube_return-1", "full", "do_nothing")
    with serving(TinyStudio(compose("play", [f"runs={tmp_path}", f"image_size={SIDE}", "fps=20"]))) as room:
        yield room


class Watched:
    """A browser's page, what it asked for and what it complained about."""

    def __init__(self, browser, address: str):
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("websocket", lambda w: self.asked.append(w.url))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.goto(address)

    def at(self, selector: str, **more):
        return self.page.locator(selector, **more)

    def idle(self) -> None:
        playwright.expect(self.at("#cancel")).to_be_disabled()
        playwright.expect(self.at("#act [type=submit]")).to_be_enabled()

    def chunks(self, count: int) -> None:
        playwright.expect(self.at("#strip > li")).to_have_count(count + 1)
        self.idle()

    def fits(self) -> None:
        """Nothing sticks out at the side."""
        wide, room = self.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room

    def shot(self, folder: Path, name: str) -> None:
        for width, height in ((1280, 900), (390, 844)):
            self.page.set_viewport_size({"width": width, "height": height})
            self.fits()
            assert self.page.evaluate(FAINT) == []
            self.page.screenshot(path=folder / f"{name}_{width}.png", full_page=True)
        self.page.set_viewport_size({"width": 1280, "height": 900})


@contextmanager
def watching(address: str) -> Iterator[Watched]:
    playwright.expect.set_options(timeout=PATIENCE)
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        watched = Watched(browser, address)
        yield watched
        browser.close()
    local = urlsplit(address).netloc
    foreign = [
        u for u in watched.asked if not u.startswith(("data:", "blob:")) and urlsplit(u).netloc != local
    ]
    assert foreign == [] and watched.complaints == []


@pytest.fixture
def watched(room: Room) -> Iterator[Watched]:
    with watching(room.address) as watched:
        yield watched


def test_a_person_plays_saves_and_opens_again(watched: Watched, tmp_path: Path):
    w, expect = watched, playwright.expect
    w.at("[name=compare]").check()
    w.at("#begin [type=submit]").click()
    w.chunks(0)
    for count, text in enumerate((PICK, PUT, PICK), 1):
        w.at(f"#usual button:text-is('{text}')").click()
        w.chunks(count)
    expect(w.at("#views figure")).to_have_count(3)
    expect(w.at("#effect rect")).to_have_count(3)
    expect(w.at("#distance circle")).to_have_count(1)
    w.shot(tmp_path, "played")
    w.at("#undo").click()
    w.chunks(2)
    w.at("#compare").click()
    expect(w.at("#compare")).to_have_attribute("aria-pressed", "false")
    w.idle()
    w.at("#compare").click()
    expect(w.at("#compare")).to_have_attribute("aria-pressed", "true")
    w.idle()
    w.at("#save").click()
    expect(w.at("#status")).to_have_text(re.compile(r"^Saved in "))
    films = w.at("#strip img").evaluate_all("images => images.map((i) => i.src)")
    with w.page.expect_download() as download:
        w.at("#gif").click()
    assert Path(download.value.path()).read_bytes()[:4] == b"GIF8"

    w.page.reload()
    w.at("[name=source][value=saved]").check()
    expect(w.at("[name=saved] option")).to_have_count(1)
    expect(w.at("[name=saved]")).not_to_have_value("")
    w.at("#begin [type=submit]").click()
    w.chunks(2)
    assert w.at("#strip img").evaluate_all("images => images.map((i) => i.src)") == films

    w.at("#tab-runs").click()
    expect(w.at("#runs-list article")).to_have_count(2)
    table = w.at("#runs-list article", has_text="planner.evaluate")
    expect(table.locator(".badge")).to_have_text(["planner.evaluate", "unfinished"])
    expect(table.locator("tbody th")).to_have_text(["do nothing (computed)", "Temp-LoRA + slow-fast loop"])
    expect(table.locator("svg circle")).to_have_count(4)  # executed and imagined, each on its interval
    w.at("#runs-list button").click()
    expect(w.page.frame_locator("#runs-list iframe").locator("p")).to_have_text("report")
    w.shot(tmp_path, "runs")
    w.at("#tab-rate").click()
    sliders = w.at("#rating input[type=range]")
    expect(sliders).to_have_count(6)
    w.shot(tmp_path, "rate")
    w.at("#rating [type=submit]").click()
    expect(w.at("#error p")).to_have_text("Rate the quality of clip A: move its slider.")
    for i in range(6):
        sliders.nth(i).focus()
        w.page.keyboard.press("ArrowRight")
    w.at("#rater").fill("Ada")
    w.at("#rating [type=submit]").click()
    expect(w.at("#rate-status")).to_contain_text("Saved.")
    expect(w.at("#so-far")).not_to_have_attribute("open", "")
    expect(w.at("#summary")).to_be_empty()  # nothing names what was seen before it is asked for
    w.at("#so-far summary").click()
    expect(w.at("#summary tbody th")).to_have_text([*MADE, f"temp_lora less {MADE[1]}"])
    expect(w.at("#summary h3")).to_have_text("cube_return: 1 rating of 1 pair")
    expect(w.at("#summary .note")).to_contain_text("1 rating by 1 person who gave a name")
    w.shot(tmp_path, "rated")
    w.at("#next-pair").click()
    expect(w.at("#so-far")).not_to_have_attribute("open", "")


def test_what_waits_or_runs_is_cancelled_by_its_button(tmp_path: Path):
    studio = TinyStudio(compose("play", [f"runs={tmp_path}", f"image_size={SIDE}"]))
    studio.steps = 2000
    with serving(studio) as room, watching(room.address) as w:
        expect, begin, release = playwright.expect, w.at("#begin [type=submit]"), threading.Event()
        expect(begin).to_be_enabled()
        expect(w.at("#cancel-begin")).to_be_hidden()
        for _ in range(2):
            room.play.worker.submit("others", lambda job: release.wait(600), lambda place: None)
        try:
            begin.click()
            expect(w.at("#begin-status")).to_have_text("Waiting: 2 jobs ahead")
            w.shot(tmp_path, "waiting")
            w.at("#cancel-begin").click()
            expect(w.at("#begin-status")).to_have_text("Cancelled")
            expect(w.at("#cancel-begin")).to_be_hidden()
            expect(begin).to_be_enabled()
            expect(w.at("#begin")).to_be_visible()
        finally:
            release.set()
        begin.click()
        w.chunks(0)
        w.at(f"#usual button:text-is('{PICK}')").click()
        expect(w.at("#status")).to_contain_text("step")
        w.at("#cancel").click()
        expect(w.at("#status")).to_have_text("Cancelled; the episode is as it was")
        w.chunks(0)


def test_what_fails_or_is_lost_leaves_no_page_that_only_looks_alive(
    watched: Watched, room: Room, monkeypatch: pytest.MonkeyPatch
):
    w, expect = watched, playwright.expect

    def fails(*_: object, **__: object) -> None:
        raise OSError("the device went away")

    w.at("#begin [type=submit]").click()
    w.chunks(0)
    start = w.at("#view-with").get_attribute("src")
    with monkeypatch.context() as broken:
        broken.setattr("planner.play.take.WorldModel.remember", fails)
        w.at(f"#usual button:text-is('{PICK}')").click()
        expect(w.at("#error p")).to_have_text("The device went away.")
        w.chunks(0)
    assert w.at("#view-with").get_attribute("src") == start
    expect(w.at("#caption")).to_have_text("start")

    w.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    expect(w.at("#begin")).to_be_visible()  # it began anew
    w.at("#begin [type=submit]").click()
    w.chunks(0)
    w.at(f"#usual button:text-is('{PICK}')").click()
    w.chunks(1)
    room.server.should_exit = True
    expect(w.at("#error p")).to_contain_text("The connection to the server was lost")
    w.page.keyboard.press("u")
    expect(w.at("#error p")).to_contain_text("is not connected to the server")
    expect(w.at("#status")).to_have_text("Not connected")


def test_the_keyboard_suffices_and_failures_are_said(watched: Watched, room: Room, tmp_path: Path):
    w, expect, press = watched, playwright.expect, watched.page.keyboard.press
    expect(w.at("#begin [type=submit]")).to_be_enabled()
    w.at("[name=source][value=seed]").focus()
    press("Enter")
    w.chunks(0)
    expect(w.at("#text")).to_be_focused()
    w.page.keyboard.type("anything at all")
    press("Enter")
    w.chunks(1)
    press("Tab")
    expect(w.at("#act [type=submit]")).to_be_focused()
    press("Tab")
    expect(w.at("#usual button").first).to_be_focused()
    press("Enter")
    w.chunks(2)
    expect(w.at("#usual button").first).to_be_focused()
    press("u")
    w.chunks(1)
    press("/")
    expect(w.at("#text")).to_be_focused()
    w.page.keyboard.insert_text("a\u202eb")
    press("Enter")
    expect(w.at("#error p")).to_contain_text("The action holds a control character")
    w.idle()
    assert w.at("#error p").inner_text().endswith(".")
    w.at("#tab-play").focus()
    press("ArrowRight")
    expect(w.at("#tab-runs")).to_be_focused()
    expect(w.at("#runs")).to_be_visible()
    press("ArrowLeft")
    w.at("#new").focus()
    press("Enter")
    w.at("[name=seed]").fill("")  # must not stand in the way of another source
    w.at("[name=source][value=saved]").check()
    w.at("#begin [type=submit]").click()
    expect(w.at("#error p")).to_have_text("No episode is saved yet.")
    w.shot(tmp_path, "begin")
    room.server.should_exit = True
    expect(w.at("#error p")).to_contain_text("The connection to the server was lost")
    expect(w.at("#begin [type=submit]")).to_be_disabled()


def test_nothing_begins_before_the_choices_are_there(watched: Watched):
    held: list[playwright.Route] = []
    watched.page.route("**/choices", lambda route: held.append(route))
    watched.page.reload()
    begin, expect = watched.at("#begin [type=submit]"), playwright.expect
    expect(watched.at("#begin")).to_be_visible()
    watched.page.wait_for_function("performance.getEntriesByType('resource').length > 3")
    expect(begin).to_be_disabled()
    held.pop().continue_()
    expect(begin).to_be_enabled()


def test_navigation_is_walked_with_keys(tmp_path: Path):
    pytest.importorskip("vizdoom", reason="the rooms are ViZDoom's")
    studio = Studio(compose("play", [*navigation(tmp_path / "weights"), f"runs={tmp_path}", "fps=20"]))
    with serving(studio) as room, watching(room.address) as w:
        press, expect = w.page.keyboard.press, playwright.expect
        expect(w.at("#begin [type=submit]")).to_be_enabled()
        w.shot(tmp_path, "start")
        w.at("#begin [type=submit]").click()
        w.chunks(0)
        walked = {"w": "go forward", "ArrowLeft": "turn left", "D": "turn right", "ArrowDown": "go back"}
        for count, (key, text) in enumerate(walked.items(), 1):
            press(key)
            w.chunks(count)
            expect(w.at(f"#chunk-{count} p").first).to_contain_text(f"{count}. {text}")
        expect(w.at("#distance circle")).to_have_count(4)
        expect(w.at("#distance-note")).to_contain_text("(blocks)")
        press("/")
        w.page.keyboard.type("was")
        expect(w.at("#text")).to_have_value("was")
        w.chunks(4)
        w.shot(tmp_path, "walked")
