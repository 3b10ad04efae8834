"""The README's animated picture: a Chromium that plays an episode on the page of a running server.

    python -m planner.play port=7860
    python -m benchmarks.play_picture --address http://127.0.0.1:7860/

Takes a picture whenever the page shows something else, so that waiting takes no time in it. ``--no-seconds``
leaves out how long chunks took, for a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tasks.files import atomic_path

ACTIONS = (
    "pick up the blue cube",
    "put the blue cube on the right",
    "pick up the blue cube",
    "return the blue cube to where it was",
)
SIZE, WIDTH = (1240, 860), 920  # px: of the page, of the picture
STEPS = 4  # denoising steps between two pictures
PATIENCE = 600_000  # ms
NO_SECONDS = "#status, #strip .note { visibility: hidden }"


class Recorder:
    """Pictures of a page, each with how long it stays, ms."""

    def __init__(self, page: Page):
        self.page, self.pictures = page, list[tuple[Image.Image, int]]()

    def take(self, stays: int) -> None:
        self.pictures.append((Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"), stays))

    def follow(self, chunk: int) -> None:
        """Take pictures until a chunk is there."""
        last, deadline = "", time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            status = self.page.locator("#status").inner_text()
            step = re.search(r"step (\d+)", status)
            seen = self.page.locator("#caption").inner_text()
            seen += str(int(step[1]) // STEPS) if step else status
            if seen != last:
                last = seen
                self.take(140)
            if self.page.locator("#cancel").is_disabled():
                break
            time.sleep(0.05)
        expect(self.page.locator("#strip > li")).to_have_count(chunk + 1)
        expect(self.page.locator("#replay")).to_have_text("Replay all")
        self.take(1200)

    def write(self, path: Path) -> None:
        height = round(SIZE[1] * WIDTH / SIZE[0])
        small = [p.resize((WIDTH, height), Image.Resampling.LANCZOS) for p, _ in self.pictures]
        pages = [p.quantize(200, dither=Image.Dither.NONE) for p in small]
        with atomic_path(path) as temp:
            stays = [ms for _, ms in self.pictures]
            pages[0].save(temp, "GIF", save_all=True, append_images=pages[1:], duration=stays, loop=0)


def record(address: str, out: Path, hidden: str) -> None:
    """Play the episode and write the picture."""
    expect.set_options(timeout=PATIENCE)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, bypass_csp=True)
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.add_style_tag(content=hidden)
        recorder = Recorder(page)
        page.locator("[name=compare]").check()
        expect(page.locator("#begin [type=submit]")).to_be_enabled()
        recorder.take(900)
        page.locator("#begin [type=submit]").click()
        expect(page.locator("#act [type=submit]")).to_be_enabled()
        recorder.take(900)
        for number, action in enumerate(ACTIONS, 1):
            page.locator(f"#usual button:text-is('{action}')").click()
            recorder.follow(number)
        recorder.take(1500)
        browser.close()
    recorder.write(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Records the README's picture of the page.")
    parser.add_argument("--address", default="http://127.0.0.1:7860/", help="of a running planner.play")
    parser.add_argument("--out", type=Path, default=Path("docs/media/play.gif"), help="where to write")
    parser.add_argument("--no-seconds", action="store_true", help="leave out how long chunks took")
    args = parser.parse_args()
    record(args.address, args.out, NO_SECONDS if args.no_seconds else "")
    print(f"{args.out}  {args.out.stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    main()
