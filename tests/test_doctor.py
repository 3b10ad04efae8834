"""`python -m envs.doctor`: one line a backend, and the exact lines to run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_rlbench import FAKES

from envs import doctor
from envs.doctor import (
    Finding,
    coppelia_problems,
    jdk_problem,
    minerl,
    minerl_notes,
    minerl_problems,
    minestudio,
    minestudio_problems,
    options,
    probe,
    rlbench,
)
from envs.doctor import numbers as version_numbers
from envs.minerl_env import java_variables
from tasks.commands import OptionError

ROOT = Path(__file__).resolve().parents[1]
YAMLS = {name: ROOT / f"environment-{name}.yml" for name in ("rlbench", "minerl", "minestudio")}


@pytest.fixture
def clean(monkeypatch):
    for name in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH", "DISPLAY", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def javac(tmp_path):
    """Makes a folder with an interpreter and a javac that says a version."""

    def make(says: str) -> str:
        folder = tmp_path / says / "bin"
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)
        (folder / "javac").write_text(f"#!/bin/sh\necho 'javac {says}' >&2\n")
        (folder / "javac").chmod(0o755)
        return str(folder / "python")

    return make


@pytest.fixture
def coppelia(tmp_path):
    folder = tmp_path / "CoppeliaSim"
    folder.mkdir()
    (folder / "libcoppeliaSim.so").touch()
    return folder


@pytest.fixture
def display(clean) -> Iterator[str]:
    """DISPLAY, where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        clean.setenv("DISPLAY", f"127.0.0.1:{port - 6000}.0")
        yield os.environ["DISPLAY"]


# --- the command -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_ends_with_0_and_gives_each_backend_its_line():
    done = subprocess.run([sys.executable, "-m", "envs.doctor"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    heads = [line.split()[:2] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [head[0] for head in heads] == ["tabletop", "doom", "rlbench", "minerl", "minestudio"]
    assert all(head[1] in ("ready", "missing") for head in heads)
    if importlib.util.find_spec("rlbench") is None:
        assert "rlbench    missing" in done.stdout and doctor.RLBENCH in done.stdout


def test_an_unknown_option_is_one_line():
    assert options(["minerl=/x/python"])["minerl"] == "/x/python"
    assert options([])["rlbench"] == sys.executable
    for wrong in ("doom=python", "rlbench", "rlbench="):
        with pytest.raises(OptionError, match="have: rlbench=PYTHON, minerl=PYTHON, minestudio"):
            options([wrong])
    assert doctor.main(["--help"]) == 0
    assert doctor.main(["nonsense=1"]) == 2


def test_a_finding_is_one_line_and_its_commands_stand_below():
    assert Finding("doom", "ViZDoom 1.3").text() == "doom       ready    ViZDoom 1.3"
    text = Finding("minerl", "", ("no JDK 8", "no display"), ("conda …", "apt …")).text()
    assert text.splitlines() == [
        "minerl     missing  no JDK 8; no display",
        " " * 12 + "conda …",
        " " * 12 + "apt …",
    ]


def test_an_embedded_simulator_that_fails_names_its_error():
    good = doctor.embedded("doom", "print('ViZDoom 9')", "vizdoom")
    assert good == Finding("doom", "ViZDoom 9")
    bad = doctor.embedded("doom", "import no_such_module", "vizdoom>=1")
    assert bad.problems == ("ModuleNotFoundError: No module named 'no_such_module'",)
    assert bad.lines == (f"{sys.executable} -m pip install 'vizdoom>=1'",)
    blind = doctor.embedded("tabletop", "raise RuntimeError('no OpenGL here')", "mujoco")
    assert "libegl1" in blind.lines[0]


def test_what_hangs_is_a_finding_and_no_traceback(monkeypatch, javac):
    python = javac("1.8.0_4")
    Path(python).with_name("javac").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(doctor, "SECONDS", 0.2)
    [problem] = doctor.embedded("doom", "import time; time.sleep(60)", "vizdoom").problems
    assert problem.startswith("it drew no picture in 0.2 s")
    assert str(jdk_problem(python)).endswith("javac gave no version in 0.2 s")


# --- RLBench -----------------------------------------------------------------------------------


def test_coppeliasim_s_folder(tmp_path, coppelia):
    assert coppelia_problems(str(coppelia)) == ([], [])
    for root, expected in (
        (None, "COPPELIASIM_ROOT is not set"),
        (str(tmp_path / "nowhere"), "is no folder"),
        (str(tmp_path), "holds no libcoppeliaSim.so"),
    ):
        [problem], lines = coppelia_problems(root)
        assert expected in problem
        assert doctor.COPPELIASIM in lines[0] and [line.split("=")[0] for line in lines[1:]] == [
            "export COPPELIASIM_ROOT",
            "export LD_LIBRARY_PATH",
            "export QT_QPA_PLATFORM_PLUGIN_PATH",
        ]


@pytest.mark.parametrize(
    ("first_line", "found"),
    [
        ("CoppeliaSim Edu, V4.1.0, rev. 1", None),
        ("no version here\nCoppeliaSim V4.9.0", None),
        ("CoppeliaSim V4.4 (rev0)", "4.4"),
        ("V-REP PRO EDU, V3.6.2", "3.6.2"),
    ],
)
def test_another_coppeliasim_is_told_by_its_readme(coppelia, first_line, found):
    (coppelia / "readme.txt").write_text(f"{first_line}\n")
    problems, lines = coppelia_problems(str(coppelia))
    assert [*problems] == [
        f"COPPELIASIM_ROOT={coppelia} holds CoppeliaSim {found}; PyRep is built against 4.1.0 alone"
    ] * (found is not None)
    assert (doctor.COPPELIASIM in "".join(lines)) == (found is not None)


def test_rlbench_is_ready_where_all_of_it_is_there(clean, coppelia, display):
    clean.setenv("PYTHONPATH", str(FAKES))
    clean.setenv("COPPELIASIM_ROOT", str(coppelia))
    found = rlbench(sys.executable)
    assert found.problems == () and found.lines == () and str(coppelia) in found.about


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"wrong_pyrep": 1}, f"another project (PyPI's): {sys.executable} -m pip uninstall pyrep"),
        ({"no_library": 1}, "libcoppeliaSim.so.1: cannot open shared object file"),
    ],
)
def test_what_is_wrong_with_pyrep(clean, coppelia, display, faults, expected):
    clean.setenv("PYTHONPATH", str(FAKES))
    clean.setenv("FAKE_SIMULATOR", json.dumps(faults))
    clean.setenv("COPPELIASIM_ROOT", str(coppelia))
    found = rlbench(sys.executable)
    assert expected in "; ".join(found.problems) and any(doctor.PYREP in line for line in found.lines)
    assert "\n" not in found.text().splitlines()[0]


def test_opencv_s_clash_and_a_missing_display(clean, coppelia):
    found = {"versions": {"opencv-python": "4.10"}, "files": {}, "attributes": {}, "errors": {}}
    (problem,) = doctor.rlbench_problems(found, "/env/bin/python")
    assert "opencv-python breaks CoppeliaSim's Qt: /env/bin/python -m pip uninstall opencv-python" in problem
    found["versions"] = {"opencv-contrib-python": "4.10"}
    (problem,) = doctor.rlbench_problems(found, "/env/bin/python")
    assert "opencv-contrib-python breaks" in problem and "opencv-contrib-python-headless" in problem
    clean.setattr(doctor.shutil, "which", lambda *a, **k: None)
    clean.setattr(doctor.sys, "platform", "linux")
    assert "no display" in str(doctor.display_problem())
    assert "is no interpreter" in str(probe("/nowhere/python", ("json",), {}))


def test_an_interpreter_that_is_too_old(clean):
    clean.setattr(doctor, "OLDEST", (99, 0))
    assert "is Python 3." in str(probe(sys.executable, ("json",), {}))
    assert "the simulators' workers need 99.0 or newer" in str(probe(sys.executable, ("json",), {}))


def test_a_display_is_one_that_answers(clean, display, tmp_path):
    assert doctor.display_answers(display) and doctor.display_problem() is None
    clean.setattr(doctor, "X11_SOCKETS", str(tmp_path))
    clean.setattr(doctor.sys, "platform", "linux")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/X7")
        assert not doctor.display_answers(":7")
        server.listen()
        assert doctor.display_answers(":7") and doctor.display_answers("unix:7.0")
    for dead in (":7", ":8", "127.0.0.1:99999", "wayland-0", "..:1", ":"):
        assert not doctor.display_answers(dead)
    clean.setenv("DISPLAY", ":8")
    for xvfb, told in ((None, ["unset DISPLAY", doctor.XVFB]), ("/usr/bin/xvfb-run", ["unset DISPLAY"])):
        problems, lines = list[str](), list[str]()
        clean.setattr(doctor.shutil, "which", lambda *a, found=xvfb, **k: found)
        doctor.add_display(problems, lines)
        assert (problems, lines) == (["DISPLAY=:8: no X server answers there"], told)


def test_the_probe_survives_what_it_imports(tmp_path, clean):
    (tmp_path / "chatty.py").write_text("print('hello')\n")
    (tmp_path / "broken.py").write_text("raise KeyError('no\\nkey')\n")
    (tmp_path / "deadly.py").write_text("import os\nos.abort()\n")
    clean.setenv("PYTHONPATH", str(tmp_path))
    found = probe(sys.executable, ("chatty", "broken"), {})
    assert found["errors"] == {"broken": "KeyError: 'no\\nkey'"} and found["files"]["chatty"] == str(tmp_path)
    assert found["versions"]["numpy"] and found["python"] == list(sys.version_info[:2])
    assert "fails at importing deadly: exit code -6" in str(probe(sys.executable, ("deadly",), {}))


# --- MineRL ------------------------------------------------------------------------------------


def test_a_jdk_8_is_asked_for(javac, clean, tmp_path):
    assert jdk_problem(javac("1.8.0_462")) is None
    assert "says 'javac 17.0.15'" in str(jdk_problem(javac("17.0.15")))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "python").symlink_to(sys.executable)
    clean.setenv("PATH", str(tmp_path / "empty"))
    assert "javac is not on PATH" in str(jdk_problem(str(alone / "python")))


def test_the_interpreter_s_own_jdk_is_used(javac):
    python = javac("1.8.0_1")
    folder = os.path.dirname(python)
    variables = java_variables(python)
    assert variables["PATH"].split(os.pathsep)[0] == folder
    assert variables["JAVA_HOME"] == os.path.dirname(folder)
    assert (
        "JAVA_HOME" not in java_variables(sys.executable) or Path(sys.executable).with_name("javac").exists()
    )
    assert java_variables("/nowhere/python") == {}


def test_minerl_s_clashes(tmp_path):
    def found(**versions):
        known = dict.fromkeys(("minerl", "gym", "numpy"), None) | versions
        return {"versions": known, "errors": {}, "files": {}, "attributes": {}}

    assert minerl_problems(found(minerl="1.0.2", gym="0.23.1", numpy="1.23.5"), "python") == []
    for versions, expected in (
        ({"minerl": "0.4.4"}, "MineRL 0.4.4 can't be built any more"),
        ({"gym": "0.26.2"}, r"gym 0.26.2: MineRL 1.0 takes"),
    ):
        [problem] = minerl_problems(found(**versions), "python")
        assert expected in problem
    newer = found(minerl="1.0.2", gym="0.23.1", numpy="2.4.6")
    assert minerl_problems(newer, "python") == [], "its Python runs on any numpy: the pin is formal"
    [note] = minerl_notes(newer)
    assert note.startswith("numpy 2.4.6: MineRL 1.0's metadata ask for less than 1.24")
    assert Finding("minerl", "MineRL 1.0.2", notes=(note,)).text().splitlines() == [
        "minerl     ready    MineRL 1.0.2",
        f"{' ' * 12}note: {note}",
    ]
    assert minerl_notes(found(numpy="2.4.6")) == minerl_notes(found(minerl="1.0.2", numpy="1.23.5")) == []
    unbuilt = found() | {"files": {"minerl": str(tmp_path)}}
    assert "Minecraft was not built" in minerl_problems(unbuilt, "python")[0]
    (tmp_path / "MCP-Reborn").mkdir()
    (tmp_path / "MCP-Reborn/launchClient.sh").touch()
    assert minerl_problems(unbuilt, "python") == []
    assert version_numbers("1.23.5rc1") == (1, 23, 5) and version_numbers("x") == ()


@pytest.mark.skipif(importlib.util.find_spec("minerl") is not None, reason="minerl is installed here")
def test_a_missing_minerl_names_the_lines(clean, javac):
    found = minerl(javac("1.8.0_2"))
    assert "No module named 'minerl'" in found.problems[0] or "is no" in found.problems[0]
    assert any(doctor.MINERL in line for line in found.lines) and "environment-minerl.yml" in found.lines[0]


def test_minestudio_s_engine_and_version(tmp_path, monkeypatch):
    monkeypatch.setenv("MINESTUDIO_DIR", str(tmp_path))
    found = {"versions": {"minestudio": "1.1.6"}, "errors": {}, "files": {}, "attributes": {}}
    [problem] = minestudio_problems(found, "python")
    assert f"its engine is not in {tmp_path}" in problem
    (tmp_path / doctor.ENGINE).parent.mkdir(parents=True)
    (tmp_path / doctor.ENGINE).touch()
    assert minestudio_problems(found, "python") == []
    [problem] = minestudio_problems(found | {"versions": {"minestudio": "2.0.0"}}, "python")
    assert problem == "MineStudio 2.0.0: expected 1.1"


@pytest.mark.skipif(importlib.util.find_spec("minestudio") is not None, reason="minestudio is installed here")
def test_a_missing_minestudio_names_the_lines(clean, javac):
    found = minestudio(javac("1.8.0_3"))
    assert "No module named 'minestudio'" in found.problems[0] or "is no" in found.problems[0]
    assert (
        "environment-minestudio.yml" in found.lines[0] and "minestudio.simulator.entry -y" in found.lines[1]
    )


# --- what is printed is what is in the files ---------------------------------------------------


def test_the_environment_files_say_what_the_doctor_says():
    for name, pins in (("rlbench", (doctor.PYREP, doctor.RLBENCH)), ("minerl", (doctor.MINERL,))):
        text = YAMLS[name].read_text("utf-8")
        made = yaml.safe_load(text)
        assert made["name"] == f"slowfast-{name}"
        assert "python=3.10" in made["dependencies"]
        assert all(re.search(r"@[0-9a-f]{40}$", pin) and f"'{pin}'" in text for pin in pins)
    studio = yaml.safe_load(YAMLS["minestudio"].read_text("utf-8"))
    assert studio["name"] == "slowfast-minestudio" and {"python=3.10", "openjdk=8"} <= set(
        studio["dependencies"][:2]
    )
    assert studio["dependencies"][-1]["pip"] == [doctor.MINESTUDIO]
    lines = [*coppelia_problems(None)[1], *doctor.rlbench_install(None)]
    told = YAMLS["rlbench"].read_text("utf-8")
    assert [line for line in lines if line not in told and "envs.doctor" not in line] == []
    pip = yaml.safe_load(told)["dependencies"][-1]["pip"]
    assert not any(entry.startswith(("pyrep", "opencv-python")) for entry in pip)


def test_no_file_says_that_the_simulators_need_an_older_python():
    for name in ("docs/simulators.md", "environment.yml", "envs/worker.py"):
        text = " ".join((ROOT / name).read_text("utf-8").split())
        assert "older Python" not in text, name
        assert all(reason in text for reason in ("abort", "hang", "JDK 8")), f"{name} gives the true reasons"


def test_every_line_is_a_shell_command():
    for line in [*coppelia_problems(None)[1], *doctor.rlbench_install("/opt/sim"), doctor.XVFB]:
        assert shlex.split(line)
        assert subprocess.run(["sh", "-n", "-c", line]).returncode == 0


def test_every_example_on_a_simulator_starts_one_of_them():
    """Each episode of a batch, and each worker, has a simulator of its own: gigabytes of Minecraft."""
    lines = re.findall(
        r"^python -m (?:planner|envs)\.\w+ .*env\.python=.*$", (ROOT / "docs/simulators.md").read_text(), re.M
    )
    assert len(lines) >= 5
    for line in lines:
        assert ("workers=1" if "envs.collect" in line else "batch_size=1") in line.split(), line


def test_the_file_for_several_machines_says_that_they_share_a_folder():
    comments = [
        line for line in (ROOT / "docs/accelerate/nodes.yaml").read_text().splitlines() if line[:1] == "#"
    ]
    assert "must be one that all machines share" in " ".join(comments)
