"""Checks which simulators run here and prints the lines that install the others.

    python -m envs.doctor
    python -m envs.doctor rlbench=~/envs/rlbench/bin/python minerl=~/envs/minerl/bin/python

Each backend gets one line: ready, or what is missing; below a missing one stand the lines to run. RLBench,
MineRL and MineStudio are looked for under the interpreters given (those of ``env.python=``), else under this
one. The exit code is 0 whatever is found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from envs import worker
from envs.minerl_env import java_variables
from envs.rlbench_env import coppelia_variables
from envs.worker_main import OLDEST
from tasks.commands import ROOT, OptionError, one_line

PYREP = "git+https://github.com/stepjam/PyRep.git@8f420be8064b1970aae18a9cfbc978dfb15747ef"
RLBENCH = "git+https://github.com/stepjam/RLBench.git@02720bba4c73fe02eb75df946b8791b806028a9d"
MINERL = "git+https://github.com/minerllabs/minerl.git@8268ee99329ab45793859050d95352d35274532b"
MINESTUDIO = "minestudio==1.1.6"
ENGINE = "engine/build/libs/mcprec-6.13.jar"
COPPELIASIM = "https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz"
LIBRARY = "libcoppeliaSim.so"
XVFB = f"sudo apt-get install {worker.XVFB}"
PROBE = Path(__file__).with_name("doctor_probe.py")
SECONDS = 300  # for one import or one picture, on a slow disk
X11_SOCKETS, X11_SECONDS = "/tmp/.X11-unix", 5.0


@dataclass(frozen=True)
class Finding:
    """What is known of one backend: what it is, what is wrong (nothing: it is ready), what to run, what to know."""

    backend: str
    about: str
    problems: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        state = f"missing  {'; '.join(self.problems)}" if self.problems else f"ready    {self.about}"
        below = [*(f"note: {note}" for note in self.notes), *self.lines]
        return "\n".join([f"{self.backend:<10} {state}", *(f"            {line}" for line in below)])


# --- the embedded simulators -------------------------------------------------------------------


def embedded(backend: str, code: str, package: str) -> Finding:
    """Whether a simulator of this interpreter starts and draws a picture."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            backend, "", (f"it drew no picture in {SECONDS} s; run this again when less runs beside it",)
        )
    if done.returncode == 0:
        return Finding(backend, done.stdout.strip().splitlines()[-1])
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [
        f"exit code {done.returncode}"
    ]
    text = re.sub(r"^[\w.]*\b(\w+(?:Error|Exception)): ", r"\1: ", said[-1])
    lines = [f"{sys.executable} -m pip install '{package}'"]
    if "OpenGL" in text or "EGL" in text:
        lines = ["sudo apt-get install libegl1 libgl1 libgles2    # or libosmesa6"]
    return Finding(backend, "", (text,), tuple(lines))


def tabletop() -> Finding:
    code = "from envs.tabletop import TabletopEnv as E; e = E(image_size=8); e.reset(seed=0); import os; "
    code += "print(e.name, 'renders on', os.environ.get('MUJOCO_GL', 'the display'))"
    return embedded("tabletop", code, "mujoco>=3.3")


def doom() -> Finding:
    code = "from envs.doom import DoomEnv as E; e = E(image_size=8); e.reset(seed=0); print(e.name)"
    return embedded("doom", code, "vizdoom>=1.3")


# --- those with an interpreter of their own ----------------------------------------------------


def probe(python: str, modules: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    """What :mod:`envs.doctor_probe` finds under an interpreter, or why it can't be asked."""
    path = shutil.which(os.path.expanduser(python))
    if path is None:
        return f"{python} is no interpreter"
    try:
        done = subprocess.run(
            [path, str(PROBE), *modules],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return f"{path} did not import {', '.join(modules)} in {SECONDS} s"
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"{path} fails at importing {', '.join(modules)}: {last}"
    if tuple(found["python"]) < OLDEST:
        shown, oldest = (".".join(map(str, v)) for v in (found["python"], OLDEST))
        return f"{path} is Python {shown}; the simulators' workers need {oldest} or newer"
    return found


def display_problem() -> str | None:
    """What is wrong with the display: named and not there, or neither named nor made by xvfb-run."""
    if sys.platform != "linux":
        return None
    if display := os.environ.get("DISPLAY"):
        return None if display_answers(display) else f"DISPLAY={display}: no X server answers there"
    missing = worker.missing_for_display()
    return f"no display: DISPLAY is not set and there is no {missing}" if missing else None


def display_answers(display: str) -> bool:
    """Whether a server listens at ``[host]:number[.screen]``: at its socket, or at port 6000 + number of a host."""
    if not (named := re.fullmatch(r"(?P<host>.*):(?P<number>\d{1,5})(\.\d+)?", display)):
        return False
    host, number = named["host"], int(named["number"])
    local = [f"{start}{X11_SOCKETS}/X{number}" for start in ("\0", "")]  # Linux's own names, then files
    try:
        if host in ("", "unix"):
            return any(_listens(socket.AF_UNIX, address) for address in local)
        return _listens(socket.AF_INET, (host, 6000 + number))
    except (OverflowError, UnicodeError):  # a port or a name that there can't be
        return False


def _listens(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as client:
        client.settimeout(X11_SECONDS)
        try:
            client.connect(address)
        except OSError:
            return False
    return True


def add_display(problems: list[str], lines: list[str]) -> None:
    """Add to both what is missing of a display: the problem, and the lines that put it right."""
    if problem := display_problem():
        problems.append(problem)
        if os.environ.get("DISPLAY"):
            lines.append("unset DISPLAY")
        if worker.missing_for_display():
            lines.append(XVFB)


def rlbench(python: str) -> Finding:
    """CoppeliaSim's folder, PyRep, RLBench, what clashes with them, a display."""
    root = os.environ.get("COPPELIASIM_ROOT")
    problems, lines = coppelia_problems(root)
    found = probe(python, ("pyrep", "rlbench"), coppelia_variables(root))
    if isinstance(found, str):
        problems.append(found)
        lines += rlbench_install(root)
    else:
        wrong = rlbench_problems(found, python)
        problems += wrong
        lines += rlbench_install(root) if wrong else []
    add_display(problems, lines)
    if problems:
        return Finding("rlbench", "", tuple(problems), tuple(dict.fromkeys(lines)))
    version = found["versions"]["rlbench"] if isinstance(found, dict) else ""
    return Finding("rlbench", f"RLBench {version} under {python}, CoppeliaSim in {root}")


def coppelia_problems(root: str | None) -> tuple[list[str], list[str]]:
    """What is wrong with CoppeliaSim's folder, and the lines that put it right."""
    folder = "$HOME/CoppeliaSim"
    fetch = f"mkdir -p {folder} && wget -O- {COPPELIASIM} | tar -xJ -C {folder} --strip-components 1"
    install = [fetch, *exports(folder)]
    if not root:
        return ["COPPELIASIM_ROOT is not set"], install
    if not Path(root).is_dir():
        return [f"COPPELIASIM_ROOT={root} is no folder"], install
    if not (Path(root) / LIBRARY).is_file():
        return [f"COPPELIASIM_ROOT={root} holds no {LIBRARY}; CoppeliaSim Edu 4.1.0 does"], install
    if (version := coppelia_version(Path(root))) and version[:2] != (4, 1):
        told = ".".join(map(str, version))
        return [
            f"COPPELIASIM_ROOT={root} holds CoppeliaSim {told}; PyRep is built against 4.1.0 alone"
        ], install
    if not os.access(root, os.W_OK):
        return [f"COPPELIASIM_ROOT={root} can't be written; PyRep writes into it when it is installed"], [
            f"sudo chown -R $USER {root}"
        ]
    return [], []


def coppelia_version(root: Path) -> tuple[int, ...]:
    """What the first line of its readme.txt says, as ``V4.1.0``; () where it says nothing."""
    try:
        with (root / "readme.txt").open(encoding="utf-8", errors="replace") as file:
            told = re.search(r"\bV(\d+(?:\.\d+)+)", file.readline())
    except OSError:
        return ()
    return tuple(int(part) for part in told[1].split(".")) if told else ()


def exports(root: str) -> list[str]:
    """What must stand in the shell before PyRep is installed; env=rlbench needs the first alone."""
    return [
        f"export COPPELIASIM_ROOT={root}",
        "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$COPPELIASIM_ROOT",
        "export QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT",
    ]


def rlbench_install(root: str | None) -> list[str]:
    return [
        *(exports(root) if root else []),
        "conda env create -f environment-rlbench.yml",
        f"conda run -n slowfast-rlbench pip install --no-build-isolation '{PYREP}'",
        f"conda run -n slowfast-rlbench pip install --no-deps '{RLBENCH}'",
        "python -m envs.doctor rlbench=$(conda run -n slowfast-rlbench which python)",
    ]


def rlbench_problems(found: dict[str, Any], python: str) -> list[str]:
    problems = []
    if "pyrep" in found["files"] and "PyRep" not in found["attributes"]["pyrep"]:
        problems.append(
            f"the pyrep under {python} is another project (PyPI's): {python} -m pip uninstall pyrep"
        )
    problems += [f"{error} (importing {name} under {python})" for name, error in found["errors"].items()]
    for name in ("opencv-python", "opencv-contrib-python"):
        if found["versions"].get(name):
            headless = f"{name}-headless"
            problems.append(
                f"{name} breaks CoppeliaSim's Qt: {python} -m pip uninstall {name}, then "
                f"{python} -m pip install --force-reinstall {headless}"
            )
    return problems


def minerl(python: str) -> Finding:
    """MineRL 1.0 and its Minecraft, a JDK 8, an old enough gym, a display."""
    problems, lines = [], []
    found = probe(python, ("minerl",), {"MALMO_MINECRAFT_OUTPUT_LOGDIR": os.devnull})
    wrong = [found] if isinstance(found, str) else minerl_problems(found, python)
    jdk = jdk_problem(python)
    problems += [*wrong, *([jdk] if jdk else [])]
    if problems:
        lines += [
            "conda env create -f environment-minerl.yml    # with JDK 8",
            f"conda run -n slowfast-minerl pip install '{MINERL}'    # builds Minecraft: some minutes",
            "python -m envs.doctor minerl=$(conda run -n slowfast-minerl which python)",
        ]
    add_display(problems, lines)
    if isinstance(found, str):
        return Finding("minerl", "", tuple(problems), tuple(lines))
    about = f"MineRL {found['versions']['minerl']} under {python}"
    return Finding("minerl", about, tuple(problems), tuple(lines), tuple(minerl_notes(found)))


def minerl_notes(found: dict[str, Any]) -> list[str]:
    """What differs from MineRL's metadata and yet runs."""
    numpy = found["versions"]["numpy"] or "0"
    if not found["versions"]["minerl"] or numbers(numpy) < (1, 24):
        return []
    return [
        f"numpy {numpy}: MineRL 1.0's metadata ask for less than 1.24, its Python runs on 2.4 all the same"
    ]


def minerl_problems(found: dict[str, Any], python: str) -> list[str]:
    versions = found["versions"]
    problems = [f"{error} (importing minerl under {python})" for error in found["errors"].values()]
    if versions["minerl"] and not versions["minerl"].startswith("1."):
        problems.append(f"MineRL {versions['minerl']} can't be built any more; expected 1.0 from git")
    if versions["gym"] and not (0, 19) <= numbers(versions["gym"]) <= (0, 23, 99):
        problems.append(f"gym {versions['gym']}: MineRL 1.0 takes 0.19 to 0.23.1")
    folder = found["files"].get("minerl")
    if folder and not (Path(folder) / "MCP-Reborn/launchClient.sh").is_file():
        problems.append(f"Minecraft was not built: no {folder}/MCP-Reborn/launchClient.sh")
    return problems


def minestudio(python: str) -> Finding:
    """MineStudio and its downloaded engine, a JDK 8, a display."""
    found = probe(python, ("minestudio.simulator",), {})
    problems, lines = minestudio_problems(found, python), []
    jdk = jdk_problem(python)
    problems += [jdk] if jdk else []
    if problems:
        lines += [
            "conda env create -f environment-minestudio.yml    # with JDK 8",
            "conda run -n slowfast-minestudio python -m minestudio.simulator.entry -y    # downloads the engine",
            "python -m envs.doctor minestudio=$(conda run -n slowfast-minestudio which python)",
        ]
    add_display(problems, lines)
    about = "" if isinstance(found, str) else f"MineStudio {found['versions']['minestudio']} under {python}"
    return Finding("minestudio", about, tuple(problems), tuple(lines))


def minestudio_problems(found: dict[str, Any] | str, python: str) -> list[str]:
    if isinstance(found, str):
        return [found]
    problems = [f"{error} (importing minestudio under {python})" for error in found["errors"].values()]
    version = found["versions"]["minestudio"]
    if version and numbers(version)[:2] != (1, 1):
        problems.append(f"MineStudio {version}: expected 1.1")
    folder = os.environ.get("MINESTUDIO_DIR") or os.path.join(tempfile.gettempdir(), "MineStudio")
    if version and not (Path(folder) / ENGINE).is_file():
        problems.append(f"its engine is not in {folder} (MINESTUDIO_DIR names another folder)")
    return problems


def jdk_problem(python: str) -> str | None:
    """Why there is no JDK 8 for an interpreter: its own comes before PATH's."""
    javac = shutil.which("javac", path=java_variables(python).get("PATH"))
    if javac is None:
        return "no JDK 8: javac is not on PATH (a JRE alone won't do)"
    try:
        done = subprocess.run([javac, "-version"], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no JDK 8: {javac} gave no version in {SECONDS} s"
    said = (done.stdout + done.stderr).strip()
    return None if "javac 1.8." in said else f"no JDK 8: {javac} says {said!r}"


def numbers(version: str) -> tuple[int, ...]:
    """``1.23.5`` to ``(1, 23, 5)``; what is no number ends it."""
    return tuple(int(part) for part in re.match(r"\d+(?:\.\d+)*|", version)[0].split(".") if part)  # type: ignore[index]


# --- the command -------------------------------------------------------------------------------

FOREIGN: dict[str, Callable[[str], Finding]] = {
    "rlbench": rlbench,
    "minerl": minerl,
    "minestudio": minestudio,
}


def options(argv: Sequence[str]) -> dict[str, str]:
    """``rlbench=PYTHON`` and the like; OptionError for anything else."""
    pythons = dict.fromkeys(FOREIGN, sys.executable)
    for text in argv:
        key, equals, value = text.partition("=")
        if key not in pythons or not equals or not value:
            have = ", ".join(f"{name}=PYTHON" for name in FOREIGN)
            raise OptionError(f"unknown option {text!r}; have: {have}")
        pythons[key] = value
    return pythons


def findings(pythons: Mapping[str, str]) -> list[Callable[[], Finding]]:
    return [tabletop, doom, *(partial(check, pythons[name]) for name, check in FOREIGN.items())]


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    try:
        checks = findings(options(argv))
    except OptionError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.code
    for check in checks:
        print(check().text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
