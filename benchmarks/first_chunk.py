"""How long a person waits on the page: from pressing a button to the first frame, and to the whole chunk.

    python -m benchmarks.first_chunk --json benchmarks/results/first_chunk.json
    python -m benchmarks.first_chunk --compare --json benchmarks/results/first_chunk_compare.json

Starts ``python -m planner.play`` as a process of its own and speaks to it as the page does. Times are medians
over ``--rounds`` episodes, each of them begun anew: ``begin`` from pressing *Begin* to the episode's first
picture, then for an episode's first chunk and for its second ``first_frame``, ``imagined`` (all frames) and
``whole`` (learned, and executed in the simulator; with ``--compare`` imagined without memory, too). What is said
of the very first chunk includes what is opened only then.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tasks.files import write_json
from tasks.provenance import command_line, commit, processor

ACTIONS = ("pick up the red cube", "put the red cube on the left")
PATIENCE = 300.0  # s
MOST = 2**26  # bytes of a message
SECONDS_AT_MOST = 5.0  # of a first chunk, on two cores


@contextmanager
def serving(options: list[str], threads: int) -> Iterator[str]:
    """A page's address, ``host:port``, as long as it is needed."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "planner.play", "port=0", f"runs={runs}", *options]
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert server.stdout is not None
        try:
            told = ""
            for line in server.stdout:
                told += line
                if found := re.search(r"open  http://(\S+)/", line):
                    yield found[1]
                    return
            raise SystemExit(f"the server ended with {server.wait()}: {told}")
        finally:
            server.terminate()
            server.wait(PATIENCE)


Heard = list[tuple[float, dict[str, Any]]]


class Page:
    """What the page's buttons send, and when answers come."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket
        self.heard("hello")

    def heard(self, last: str) -> Heard:
        """Every message until the first of a kind, each with the time it came."""
        out: Heard = []
        while not out or out[-1][1]["type"] != last:
            message = json.loads(self.socket.recv(PATIENCE))
            out.append((time.perf_counter(), message))
            if message["type"] in ("error", "full"):
                raise SystemExit(message["text"])
        return out

    def press(self, **message: Any) -> Heard:
        """Send a message; all that comes of it, each with the seconds that it took."""
        begun = time.perf_counter()
        self.socket.send(json.dumps(message))
        return [(at - begun, told) for at, told in self.heard("idle")]


def one_episode(page: Page, **chosen: Any) -> dict[str, float]:
    """Seconds of each part of an episode that begins as ``chosen``."""
    start = {"type": "start", "task": "cube_return", "source": "seed", "seed": 0}
    out = {"begin": next(at for at, told in page.press(**start, **chosen) if told["type"] == "episode")}
    for number, text in enumerate(ACTIONS, 1):
        heard = page.press(type="act", text=text)
        frames = [at for at, told in heard if told["type"] == "frame" and told["side"] == "with"]
        out[f"chunk_{number}_first_frame"], out[f"chunk_{number}_imagined"] = frames[0], frames[-1]
        out[f"chunk_{number}_whole"] = next(at for at, told in heard if told["type"] == "chunk")
    return out


def play(address: str, rounds: int, **chosen: Any) -> dict[str, Any]:
    """The figures of ``1 + rounds`` episodes on the page at ``host:port``."""
    origin: Any = f"http://{address}"
    with connect(f"ws://{address}/connect", origin=origin, max_size=MOST) as socket:
        page = Page(socket)
        first, *rest = [one_episode(page, **chosen) for _ in range(1 + rounds)]
    return {
        "seconds": {k: round(statistics.median(e[k] for e in rest), 3) for k in first},
        "very_first": {k: round(v, 3) for k, v in first.items()},
        "within_5_s": first["chunk_1_whole"] <= SECONDS_AT_MOST,
        **chosen,
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write json if asked."""
    parser = argparse.ArgumentParser(description="How long a person waits for a chunk on the page.")
    parser.add_argument("--rounds", type=int, default=5, help="episodes after the first one (default 5)")
    parser.add_argument("--memory", default="temp_lora", help="of the page's (default temp_lora)")
    parser.add_argument("--compare", action="store_true", help="side by side with the same without memory")
    parser.add_argument("--simulator", default="expert", choices=["expert", "reader", "none"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the server (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("options", nargs="*", help="further key=value options of planner.play")
    args = parser.parse_args(argv)
    if min(args.rounds, args.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    load = round(os.getloadavg()[0], 2)
    simulator = None if args.simulator == "none" else args.simulator
    with serving(args.options, args.threads) as address:
        figures = play(address, args.rounds, memory=args.memory, simulator=simulator, compare=args.compare)
    measured = {"threads": args.threads, "hardware": processor(), "load_before": load, "commit": commit()}
    figures |= measured | {"command": command_line("benchmarks.first_chunk")}
    for key, value in figures.items():
        print(f"{key:12} {value}")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
