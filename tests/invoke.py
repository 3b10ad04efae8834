"""``python -m MODULE key=value …``: in this process, as a new one takes seconds to import torch and diffusers, or
killed at every write in a new one."""

from __future__ import annotations

import io
import runpy
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from accelerate.state import AcceleratorState


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and all that it wrote."""

    returncode: int
    stdout: str
    stderr: str


def killed_at_every_write(module: str, *options: str) -> str:
    """The command's output, begun anew after each kill (``kills.py``) until it succeeded; it was killed at least
    four times."""
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, "-u", script, module, *options],
        cwd=script.parents[1],
        capture_output=True,
        text=True,
    )
    *_, last = done.stdout.splitlines()
    codes = [int(code) for code in last.removeprefix("attempts:").split()]
    assert set(codes[:-1]) == {-signal.SIGKILL} and codes[-1] == 0 and len(codes) > 4, done.stderr[-2000:]
    return done.stdout


def command(module: str, *options: str, check: bool = True) -> Done:
    """Run a command to its end; ``check`` expects that it succeeds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", [module, *options]):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            AcceleratorState._reset_state(True)
    if check:
        assert code == 0, err.getvalue()[-2000:]
    return Done(code, out.getvalue(), err.getvalue())
