"""``python -m MODULE key=value …`` in this process: a new one takes seconds to import torch and diffusers."""

from __future__ import annotations

import io
import runpy
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from accelerate.state import AcceleratorState


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and all that it wrote."""

    returncode: int
    stdout: str
    stderr: str


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
