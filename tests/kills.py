"""``python tests/kills.py MODULE key=value …`` kills a command (-9) at one write after the other, until it ends.

The first attempt dies just before it puts its first file in place, the second before its second, and so on; each goes
on where the one before it died. Every attempt's exit status is printed. Attempts are forks of a process that has
imported the command, and trained nothing: that is paid once.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
import warnings


def attempt(module: str, options: list[str], limit: int) -> int:
    """Run the command until its ``limit``-th rename or its end; its exit status, negative for a signal's."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    renames, code = 0, 1

    def at_a_write(event: str, _: tuple) -> None:
        nonlocal renames
        if event == "os.rename":  # of os.replace and of Path.rename, too
            renames += 1
            if renames == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(at_a_write)
    sys.argv = [module, *options]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    sys.path.insert(0, os.getcwd())
    importlib.import_module(sys.argv[1])
    tried = [-signal.SIGKILL]
    while tried[-1] == -signal.SIGKILL:
        tried.append(attempt(sys.argv[1], sys.argv[2:], len(tried)))
    print("attempts:", *tried[1:])
