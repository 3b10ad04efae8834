"""What every test shares: one thread a process, no hub, what `gpu` and `browser` need, and `--minutes`."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit them
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # products round alike wherever a tensor lies in memory
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores Ctrl-C: tests need it

BEGAN = time.monotonic()
FIRST = [
    *("world_model", "memory", "diffusion", "slowfast", "tabletop", "dataset", "collect", "pretrain"),
    *("inverse_dynamics", "locate", "run", "architecture", "commands", "packaging", "end_to_end"),
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="skip what has not begun by then, on a slow machine")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"not begun within {minutes:g} minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what all else stands on, where time may run out; skip, with the reason, what this machine cannot
    run."""
    names = [f"test_{name}" for name in FIRST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    browser = [item for item in items if item.get_closest_marker("browser")]
    if gpu and not _has_cuda():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    if browser and not any(map(shutil.which, BROWSERS)):
        for item in browser:
            item.add_marker(pytest.mark.skip(reason=f"none of {', '.join(BROWSERS)} on PATH"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
