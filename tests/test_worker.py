"""A simulator's own process: another interpreter, no pickle, killed and restarted when it fails."""

from __future__ import annotations

import ast
import io
import os
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import pytest

from envs.wire import MAGIC, PREFIX, GarbageError, decode, encode
from envs.worker import A_SHELL_S, CallError, MissingSimulatorError, Worker, WorkerError, display_prefix
from envs.worker_main import OLDEST

MODULE = Path(__file__).with_name("faulty_worker.py")
WORKER_SIDE = ["worker_main", "wire", "doctor_probe", "rlbench_worker", "rlbench_scene", "minecraft_worker"]
WORKER_SIDE += ["minerl_worker", "minestudio_worker"]


@pytest.fixture(scope="session")
def other_python(tmp_path_factory) -> str:
    """A second interpreter that has numpy and nothing else of ours."""
    folder = tmp_path_factory.mktemp("other")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv/bin/python"
    only = folder / "only"
    only.mkdir()
    for found in (Path(np.__file__).parent, *Path(np.__file__).parents[1].glob("numpy.libs")):
        (only / found.name).symlink_to(found)
    purelib = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (purelib / "only.pth").write_text(f"{only}\n")
    return str(python)


@pytest.fixture
def worker(other_python):
    worker = Worker("faulty", MODULE, other_python, start_timeout=600, advice="do this")
    yield worker
    worker.close()


def gone(pid: int) -> bool:
    """Whether a process ends within two seconds."""
    for _ in range(40):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# --- messages ----------------------------------------------------------------------------------


def read_of(data: bytes):
    stream = io.BytesIO(data)

    def read(count: int) -> bytes:
        got = stream.read(count)
        if len(got) < count:
            raise EOFError
        return got

    return read


def test_messages_come_back_as_they_were():
    arrays = {
        "pov": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[::-1],
        "big-endian": np.arange(3, dtype=">f8"),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "empty": np.empty((0, 3), np.float32),
        "flag": np.array(True),
    }
    data, back = decode(read_of(encode({"text": "ü\n", "none": None}, arrays)))
    assert data == {"text": "ü\n", "none": None} and list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.c_contiguous and back[name].flags.writeable
        assert back[name].shape == array.shape


def header(text: bytes) -> bytes:
    return PREFIX.pack(MAGIC, len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95 pickled?",
        PREFIX.pack(MAGIC, 1 << 30),
        header(b"not json"),
        header(b"[]"),
        header(b'{"data": 1, "arrays": []}'),
        header(b'{"data": {}, "arrays": [{"name": "a", "dtype": "|O", "shape": [1]}]}'),
        header(b'{"data": {}, "arrays": [{"name": "a", "dtype": "<f8", "shape": [-1]}]}'),
        header(b'{"data": {}, "arrays": [{"name": "a", "dtype": "<f8", "shape": [99999999999]}]}'),
        header(b'{"data": {}, "arrays": [{"name": "a", "dtype": "no such", "shape": [1]}]}'),
        header(b'{"data": {}, "arrays": [{"dtype": "<f8"}]}'),
    ],
)
def test_what_is_no_message_is_garbage(data):
    with pytest.raises(GarbageError):
        decode(read_of(data))


def test_objects_are_never_sent():
    with pytest.raises(TypeError, match="expected numbers or bools"):
        encode({}, {"a": np.array([object()])})


# --- a second interpreter ----------------------------------------------------------------------


def test_the_worker_runs_under_its_own_interpreter_without_our_packages(worker, other_python):
    done = subprocess.run([other_python, "-c", "import gymnasium"], capture_output=True)
    assert done.returncode != 0, "the second interpreter was to have no gymnasium"
    reply, arrays = worker.call("answer", {"a": [1, None]}, {"x": np.arange(3.0)})
    assert reply["python"] == other_python and reply["got"] == {"a": [1, None]}
    assert arrays["x"].tolist() == [0.0, 2.0, 4.0]
    assert "chatter" in worker.last_words()
    assert not {"gymnasium", "torch", "tasks", "hydra", "envs.base"} & set(reply["modules"])
    assert worker.call("answer")[0]["pid"] == reply["pid"] and worker.starts == 1


def test_a_large_array_goes_both_ways(worker):
    large = np.arange(3_000_000, dtype=np.uint8)
    assert np.array_equal(worker.call("answer", {}, {"x": large})[1]["x"], large * 2)


def test_an_error_of_the_simulator_leaves_its_process_alive(worker):
    with pytest.raises(CallError, match=r"^ValueError: this can't be done$") as caught:
        worker.call("refuse")
    assert caught.value.kind == "ValueError"
    with pytest.raises(CallError, match="can't be sent"):
        worker.call("objects")
    with pytest.raises(CallError, match="KeyError"):
        worker.call("no_such_call")
    worker.call("answer")
    assert worker.starts == 1


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("die", r"died during 'die' \(signal SIGABRT\); it last said: qt.qpa.xcb: could not connect"),
        ("leave", r"died during 'leave' \(exit code 7\)"),
        ("babble", r"answered 'babble' with garbage and was killed \(expected a message"),
    ],
)
def test_a_process_that_fails_is_named_in_one_line_and_started_again(worker, call, expected):
    first = worker.call("answer")[0]["pid"]
    with pytest.raises(WorkerError, match=expected) as caught:
        worker.call(call, timeout=600)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("env=faulty: ")
    assert str(caught.value).endswith("; do this")
    assert gone(first) and not worker.alive
    assert worker.call("answer")[0]["pid"] != first and worker.starts == 2


def test_a_hung_process_is_killed_with_all_it_started(worker, tmp_path):
    begin, pids = time.monotonic(), tmp_path / "pids"
    worker.start()
    with pytest.raises(WorkerError, match=r"gave no answer to 'hang' in 1 s and was killed"):
        worker.call("hang", {"pids": str(pids)}, timeout=1)
    assert time.monotonic() - begin < 600
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    worker.call("answer")


def test_an_interrupted_call_never_answers_the_next_one(worker, monkeypatch):
    """Ctrl-C during a call: the reply that is still under way belongs to nobody."""
    worker.call("answer", {"n": 1})

    def interrupted(count, deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.call("answer", {"n": 2})
    monkeypatch.undo()
    assert worker.call("answer", {"n": 3})[0]["got"] == {"n": 3}


def test_close_ends_the_process(worker):
    pid = worker.call("answer")[0]["pid"]
    worker.close()
    worker.close()
    assert gone(pid)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_a_hung_worker_does_not_outlive_its_parent(other_python, tmp_path):
    pids = tmp_path / "pids"
    code = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from envs.worker import Worker\n"
        f"worker = Worker('faulty', {str(MODULE)!r}, {other_python!r})\n"
        f"threading.Thread(target=worker.call, args=('hang', {{'pids': {str(pids)!r}}}), daemon=True).start()\n"
        f"while not (Path({str(pids)!r}).exists() and Path({str(pids)!r}).read_text()): time.sleep(0.05)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=MODULE.parents[1])
    time.sleep(1.5)
    assert all(gone(int(pid)) for pid in pids.read_text().split())


# --- starting ----------------------------------------------------------------------------------


def test_a_missing_interpreter_is_named(tmp_path):
    with pytest.raises(
        MissingSimulatorError, match=r"env\.python=/nowhere/python is no interpreter; do this"
    ):
        Worker("faulty", MODULE, "/nowhere/python", advice="do this").call("answer")
    broken = tmp_path / "python"
    broken.write_text("#!/bin/nowhere\n")
    broken.chmod(0o755)
    with pytest.raises(MissingSimulatorError, match="can't be started"):
        Worker("faulty", MODULE, str(broken)).call("answer")


def test_a_simulator_that_can_t_be_imported_is_named(other_python):
    worker = Worker("faulty", MODULE, other_python, environ={"FAULTY_IMPORT": "No module named 'pyrep'"})
    with pytest.raises(MissingSimulatorError, match=r"ImportError: No module named 'pyrep' under .*python"):
        worker.call("answer")
    assert not worker.alive


@pytest.mark.parametrize(
    ("said", "is_a_shell_s"),
    [
        ("Aborted", True),
        ("Aborted (core dumped)", True),
        ("Segmentation fault", True),
        ("/usr/bin/xvfb-run: line 184: 1234 Aborted                 (core dumped) DISPLAY=:99 python", True),
        ("/usr/bin/xvfb-run: line 184:  1234 Killed                  DISPLAY=:99 python", True),
        ("qt.qpa.xcb: could not connect to display", False),
        ("Killed by the watchdog", False),
        ("the planner was Aborted", False),
    ],
)
def test_what_a_shell_says_of_a_death_is_told_apart(said, is_a_shell_s):
    assert bool(A_SHELL_S.fullmatch(said)) == is_a_shell_s


def test_a_worker_behind_a_shell_answers_dies_and_hangs_as_without(other_python, tmp_path):
    """What stands in front of the interpreter is a shell script, as xvfb-run is."""
    script = tmp_path / "xvfb-run"
    script.write_text('#!/bin/sh\nshift 3\n"$@"\n')
    script.chmod(0o755)
    prefix = (str(script), "-a", "-s", "-screen 0 1280x1024x24")
    worker = Worker("faulty", MODULE, other_python, start_timeout=600, prefix=prefix)
    try:
        assert worker.call("answer", {"n": 1})[0]["got"] == {"n": 1}
        with pytest.raises(WorkerError, match=r"died during 'die' \(signal SIGABRT\); it last said: qt"):
            worker.call("die", timeout=600)
        with pytest.raises(WorkerError, match="gave no answer to 'hang'"):
            worker.start()
            worker.call("hang", {"pids": str(tmp_path / "pids")}, timeout=1)
        assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    finally:
        worker.close()


def test_a_worker_that_is_closed_leaves_its_shell_time_to_clean_up(other_python, tmp_path):
    """As xvfb-run does, which takes its display and its files away in a trap."""
    script, cleaned = tmp_path / "xvfb-run", tmp_path / "cleaned"
    script.write_text(f'#!/bin/sh\ntrap "touch {cleaned}" EXIT\n"$@"\n')
    script.chmod(0o755)
    worker = Worker("faulty", MODULE, other_python, start_timeout=600, prefix=(str(script),))
    pid = worker.call("answer")[0]["pid"]
    worker.close()
    assert cleaned.is_file() and gone(pid) and not worker.alive
    worker.close()


def test_a_python_that_is_too_old_says_so(tmp_path):
    code = (
        "import runpy, sys; sys.version_info = (3, 8, 1); sys.version = '3.8.1 (main)'\n"
        "runpy.run_path(sys.argv[1])['main']('module', 0, 1, 1)"
    )
    main = MODULE.parents[1] / "envs" / "worker_main.py"
    done = subprocess.run([sys.executable, "-c", code, main], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "Python 3.8.1 is too old: expected 3.9 or newer\n"


@pytest.mark.parametrize("name", WORKER_SIDE)
def test_what_workers_run_is_python_3_9(name):
    text = (MODULE.parents[1] / "envs" / f"{name}.py").read_text()
    tree = ast.parse(text, feature_version=OLDEST)
    assert not any(isinstance(node, ast.keyword) and node.arg == "strict" for node in ast.walk(tree))
    assert "from __future__ import annotations" in text


def test_an_interpreter_without_numpy_says_so(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    with pytest.raises(WorkerError, match="No module named 'numpy'"):
        Worker("faulty", MODULE, str(tmp_path / "bare/bin/python")).call("answer")


def test_a_display_is_found_or_named(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":5")
    assert display_prefix("auto", "faulty") == ()
    monkeypatch.delenv("DISPLAY")
    assert display_prefix("inherit", "faulty") == ()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "platform", "linux")
    assert display_prefix("auto", "faulty")[:2] == ("xvfb-run", "-a")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MissingSimulatorError, match=r"env=faulty: no display .*apt-get install xvfb xauth"):
        display_prefix("auto", "faulty")
    monkeypatch.setattr("shutil.which", lambda name: None if name == "xauth" else f"/usr/bin/{name}")
    with pytest.raises(MissingSimulatorError, match=r"DISPLAY is not set\) and no xauth;"):
        display_prefix("auto", "faulty")
    with pytest.raises(ValueError, match=r"env\.display=maybe"):
        display_prefix("maybe", "faulty")


def test_the_site_folder_of_the_tests_is_not_the_worker_s(other_python):
    """The fixture above means what it says."""
    assert str(site.getsitepackages()[0]) not in subprocess.check_output(
        [other_python, "-c", "import sys; print(sys.path)"], text=True, env={**os.environ, "PYTHONPATH": ""}
    )
