"""What a user installs and reads: dependencies, the Makefile, commands and paths in the docs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from planner import ship
from planner.results import write_results
from planner.ship import SETTINGS, digest
from tasks.commands import CommandError, compose, plain
from tasks.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("planner", "world_model", "inverse_dynamics", "envs", "tasks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE_MAP = ROOT / "docs" / "paper_to_code.md"

# conda's names for what PyPI calls otherwise; imageio's extra is a package there
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "huggingface_hub": "huggingface-hub"}
CONDA_ONLY = {"python", "pip"}
# simulators of other interpreters, imported in worker processes only
FOREIGN = {"rlbench", "pyrep", "minerl", "minestudio"}


def split(requirement: str) -> tuple[str, str]:
    """``name[extra]>=1.2`` -> ``("name", ">=1.2")``."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)", requirement)
    assert match, requirement
    return re.sub(r"[._-]+", "-", match[1]).lower(), match[2].replace(" ", "")


def read(path: Path) -> str:
    return path.read_text("utf-8")


# --- dependencies ----------------------------------------------------------------------------


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load(read(ROOT / "environment.yml"))
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert environment["name"] == PROJECT["name"]
    assert "-e ." in pip
    listed = dict(split(r) for r in [*conda, *pip] if r != "-e .")
    assert listed.pop("python") == PROJECT["requires-python"]
    listed = {CONDA_NAMES.get(name, name): bound for name, bound in listed.items() if name not in CONDA_ONLY}
    assert listed == dict(map(split, PROJECT["dependencies"]))


def test_environment_yml_points_at_the_simulators_own_files():
    own = sorted(p.name for p in ROOT.glob("environment-*.yml"))
    comments = [line for line in read(ROOT / "environment.yml").splitlines() if line.startswith("#")]
    assert own and [name for name in own if f"#   conda env create -f {name}" not in comments] == []


def test_every_third_party_import_is_declared():
    declared = dict(map(split, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["play"]]))
    owners = packages_distributions()
    missing = []
    for path in (p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(read(path))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - set(PACKAGES) - FOREIGN:
                known = {split(owner)[0] for owner in owners.get(top, [])}
                if top not in sys.stdlib_module_names and not known & set(declared):
                    missing.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {top} (of {sorted(known) or 'unknown'})"
                    )
    assert missing == []


def test_an_error_that_says_what_to_install_asks_for_what_pyproject_does():
    sources = [read(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    told = {m for text in sources for m in re.findall(r"pip install '([\w-]+>=[\d.]+)'", text)}
    assert len(told) >= 3 and sorted(told - set(PROJECT["dependencies"])) == []


def test_every_folder_with_code_is_a_package():
    folders = {p.parent for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


# --- commands --------------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read(ROOT / "Makefile"), re.MULTILINE))


def make(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, though the tests may themselves run under make."""
    env = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    }
    return subprocess.run(["make", *arguments], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("target", sorted(make_targets()))
def test_make_target_expands(target: str):
    done = make("-n", target, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_weights_runs_the_recipe_of_its_task():
    done = make("-n", "weights", "TASK=path_retrace", "RUNS=elsewhere", cwd=ROOT).stdout
    assert "-m planner.recipe task=path_retrace runs=elsewhere" in done


def test_the_recipe_is_the_one_behind_the_shipped_autoencoder():
    manifest = json.loads(read(ROOT / "weights/cube_return/manifest.json"))
    used = manifest["world_model"]["options"]["autoencoder"]
    given = plain(compose("pretrain"))["autoencoder"]
    assert {k: v for k, v in given.items() if k != "path"} == {k: v for k, v in used.items() if k != "path"}


@pytest.mark.parametrize("manifest", sorted((ROOT / "weights").glob("*/manifest.json")), ids=str)
def test_a_manifest_describes_the_files_beside_it(manifest: Path):
    told = json.loads(read(manifest))
    for part, record in told.items():
        if isinstance(record, dict) and (manifest.parent / part / SETTINGS).is_file():
            assert record["settings"] == json.loads(read(manifest.parent / part / SETTINGS)), part
            assert record["trained_by"] and all(record["trained_by"]), part
    for name, sha256 in told["sha256"].items():
        assert digest(manifest.parent / name) == sha256, name


def trained(run: Path, name: str, hours: float) -> None:
    """What a trainer leaves in its run."""
    write_text(
        run / "origin.json", json.dumps([{"command": f"train {name}", "processor": "p", "device": "cpu"}])
    )
    write_text(run / "training" / "metrics.jsonl", json.dumps({"step": 9, "seconds": 3600 * hours}) + "\n")


def test_shipping_records_the_settings_that_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The training's options may say another guidance than the finished model's file."""
    for part, files in (("world_model", {SETTINGS: '{"guidance": [1.0, 1.0]}'}), ("inverse_dynamics", {})):
        run = tmp_path / part
        for name, text in {**files, "weights.bin": "0", "metrics.json": '{"psnr": 1.0}'}.items():
            write_text(run / "model" / name, text)
        write_text(run / "config.yaml", "model: {guidance: [1.0, 1.5]}\n")
        trained(run, part, 0.5)
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    ship.run(
        compose(
            "ship", [f"world_model={tmp_path}/world_model", f"inverse_dynamics={tmp_path}/inverse_dynamics"]
        )
    )
    manifest = json.loads(read(tmp_path / "weights/cube_return/manifest.json"))
    assert manifest["world_model"]["settings"] == {"guidance": [1.0, 1.0]}
    assert manifest["world_model"]["options"] == {"model": {"guidance": [1.0, 1.5]}}
    assert "settings" not in manifest["inverse_dynamics"]
    assert set(manifest["sha256"]) == {
        f"world_model/{SETTINGS}",
        "world_model/weights.bin",
        "inverse_dynamics/weights.bin",
    }


def test_the_loops_result_is_shipped_beside_the_base_and_shares_its_files(tmp_path, monkeypatch):
    for part, unet in (("world_model", "base"), ("loop", "finetuned"), ("inverse_dynamics", "reader")):
        run = tmp_path / part
        origin = json.dumps({"_name_or_path": f"runs/{part}", "channels": 4})
        files = {"unet/w.bin": unet, "vae/w.bin": "same", "vae/config.json": origin, "metrics.json": "{}"}
        if part == "loop":
            files["writer/w.bin"] = "base"
        for name, text in files.items():
            write_text(run / "model" / name, text)
        write_text(
            run / "config.yaml", f"weights: {tmp_path}/world_model/model\n" if part == "loop" else "seed: 0\n"
        )
        trained(run, part, 1.5)
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    runs = [f"world_model={tmp_path}/world_model", f"inverse_dynamics={tmp_path}/inverse_dynamics"]
    ship.run(compose("ship", [*runs, f"slowfast_loop.temp_lora={tmp_path}/loop"]))
    folder = tmp_path / "weights/cube_return"
    looped = folder / "world_model-temp_lora"
    assert json.loads(read(folder / "world_model/vae/config.json")) == {"channels": 4}
    assert (looped / "vae").is_symlink() and read(looped / "vae/w.bin") == "same"
    assert not (looped / "unet").is_symlink() and read(looped / "unet/w.bin") == "finetuned"
    assert (looped / "writer").is_symlink() and read(looped / "writer/w.bin") == "base"
    manifest = json.loads(read(folder / "manifest.json"))
    base, loop = manifest["world_model-temp_lora"]["trained_by"]
    assert (
        base["started"][0]["command"] == "train world_model" and loop["started"][0]["command"] == "train loop"
    )
    assert (
        loop["hours"] == 1.5
        and loop["steps"] == {"training": 9}
        and manifest["world_model"]["trained_by"] == [base]
    )
    assert "world_model-temp_lora/unet/w.bin" in manifest["sha256"]

    before = {p.relative_to(tmp_path): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    write_text(tmp_path / "world_model/model/unet/w.bin", "new")
    last = tmp_path / "inverse_dynamics/model/metrics.json"
    for spoil, says in (
        (lambda: monkeypatch.setattr(ship, "LIMIT_MB", 1e-6), "must stay under 1e-06 MB"),
        (last.unlink, "inverse_dynamics holds no finished model"),
    ):
        spoil()
        with pytest.raises(CommandError, match=says):
            ship.run(compose("ship", runs))
        after = {p.relative_to(tmp_path): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert after == before and [p.name for p in folder.parent.iterdir()] == [folder.name]

    monkeypatch.setattr(ship, "LIMIT_MB", 25)
    write_text(last, "{}")
    folder.rename(ship.replaced(folder))  # killed between two renames
    ship.run(compose("ship", runs))
    assert read(folder / "world_model/unet/w.bin") == "new" and read(looped / "unet/w.bin") == "finetuned"
    assert read(looped / "writer/w.bin") == "base" and not (looped / "writer").is_symlink()
    assert (looped / "vae").is_symlink() and [p.name for p in folder.parent.iterdir()] == [folder.name]
    kept = json.loads(read(folder / "manifest.json"))
    assert kept["world_model-temp_lora"] == manifest["world_model-temp_lora"]
    assert kept["sha256"]["world_model-temp_lora/writer/w.bin"] == digest(looped / "writer/w.bin")

    nothing = ["world_model=null", "inverse_dynamics=null"]
    write_text(tmp_path / "loop/model/unet/w.bin", "finetuned again")
    ship.run(compose("ship", [*nothing, f"slowfast_loop.temp_lora={tmp_path}/loop"]))  # the loop alone
    assert (
        read(looped / "unet/w.bin") == "finetuned again" and read(folder / "world_model/unet/w.bin") == "new"
    )
    again = json.loads(read(folder / "manifest.json"))
    assert all(again[part] == kept[part] for part in ("world_model", "inverse_dynamics"))
    write_text(
        tmp_path / "loop/config.yaml", f"weights: {looped}\n"
    )  # a loop that went on from the shipped one
    ship.run(compose("ship", [*nothing, f"slowfast_loop.temp_lora={tmp_path}/loop"]))
    longer = json.loads(read(folder / "manifest.json"))["world_model-temp_lora"]["trained_by"]
    assert longer == [base, loop, loop]
    with pytest.raises(CommandError, match="nothing to ship"):
        ship.run(compose("ship", nothing))


def test_weights_that_are_too_large_or_of_unknown_origin_change_nothing(tmp_path, monkeypatch):
    for part in ("world_model", "inverse_dynamics"):
        for name, text in (("weights.bin", "new"), ("metrics.json", "{}")):
            write_text(tmp_path / part / "model" / name, text)
        write_text(tmp_path / part / "config.yaml", "seed: 0\n")
        write_text(tmp_path / "weights/cube_return" / part / "weights.bin", "old")
    monkeypatch.setattr(ship, "ROOT", tmp_path)
    options = [f"{part}={tmp_path}/{part}" for part in ("world_model", "inverse_dynamics")]
    with pytest.raises(CommandError, match=r"world_model: a run behind it keeps no origin.json"):
        ship.run(compose("ship", options))
    options += ["trained.world_model=by hand", "trained.inverse_dynamics=by hand"]
    monkeypatch.setattr(ship, "LIMIT_MB", 5e-6)
    with pytest.raises(CommandError, match=r"would take 0\.0 MB"):
        ship.run(compose("ship", options))
    shown = {
        p.relative_to(tmp_path / "weights/cube_return"): p.read_text()
        for p in (tmp_path / "weights").rglob("*.bin")
    }
    assert shown == {Path("world_model/weights.bin"): "old", Path("inverse_dynamics/weights.bin"): "old"}
    monkeypatch.setattr(ship, "LIMIT_MB", 25)
    ship.run(compose("ship", options))
    manifest = json.loads(read(tmp_path / "weights/cube_return/manifest.json"))
    assert manifest["world_model"]["trained"] == "by hand" and len(manifest["sha256"]) == 2


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("python", "expected"),
    [("no-such-python", "no-such-python not found"), ("./old-python", "Python 3.9.2 is too old")],
)
def test_make_install_says_which_python_it_needs(tmp_path: Path, python: str, expected: str):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi\n')
    old.chmod(0o755)
    done = make("install", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode != 0
    assert expected in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("minutes", "outcome"), [("0", "skipped"), ("600", "passed")])
def test_what_has_not_begun_in_time_is_skipped_and_counted(minutes: str, outcome: str):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "--minutes", minutes, "tests/test_statistics.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and re.search(rf"= \d+ {outcome} in ", done.stdout), done.stdout
    assert (f"not begun within {minutes} minutes" in done.stdout) == (outcome == "skipped")


def test_ci_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    commands = [line for line in read(script).splitlines() if line.startswith("make ")]
    assert os.access(script, os.X_OK)
    assert commands == ["make demo", "make test"]
    positions = [read(ROOT / "README.md").index(command) for command in commands]
    assert positions == sorted(positions)


# --- the docs --------------------------------------------------------------------------------


def quoted(text: str) -> Iterator[str]:
    """What a markdown file shows as code: fenced blocks and spans."""
    fence = re.compile(r"^ *```.*?\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    yield from fence.findall(text)
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", text))


@pytest.mark.parametrize("doc", DOCS, ids=lambda p: p.name)
def test_documented_commands_exist(doc: Path):
    code = "\n".join(quoted(read(doc)))
    modules = set(re.findall(r"\bpython3? -m ([A-Za-z_][\w.]*)", code))
    modules = {m for m in modules if m not in ("venv", "pip") and m.split(".")[0] not in FOREIGN}
    lost = [m for m in sorted(modules) if importlib.util.find_spec(m) is None]
    assert lost == []
    asked = set(re.findall(r"(?:^|[`\s;&])make ([a-z][a-z-]*)", code))
    assert sorted(asked - make_targets()) == []


@pytest.mark.parametrize("doc", DOCS, ids=lambda p: p.name)
def test_documented_paths_exist(doc: Path):
    text = read(doc)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    relative = [a or b for a, b in links if not re.match(r"[a-z]+:|#", a or b)]
    missing = [link for link in relative if not (doc.parent / link.split("#")[0]).exists()]
    shown = {word.rstrip(".") for span in quoted(text) for word in re.findall(r"[\w.][\w./-]*", span)}
    for word in sorted(shown):
        top = word.split("/")[0]
        placeholder = top in ("runs", "data", ".venv") or re.search(
            r"\b[A-Z]{2,}\b", word
        )  # written later; tasks/NAME.py
        if "/" in word and (ROOT / top).is_dir() and not placeholder and not (ROOT / word).exists():
            missing.append(word)
    assert missing == []


def code_rows() -> list[tuple[str, str, str]]:
    """(what of the paper, file, name) for every name in the table of docs/paper_to_code.md."""
    rows = []
    for line in read(CODE_MAP).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[2] == "File" or set(cells[0]) <= set("-: "):
            continue
        file = cells[2].strip("`")
        names = re.findall(r"`([^`]+)`", cells[3])
        assert names, f"{cells[0]}: names nothing in {file}"
        rows += [(cells[0], file, name) for name in names]
    return rows


def test_the_code_map_covers_the_paper():
    """Equations, both halves of Algorithm 1, guidance, planning, architecture and set-up have rows."""
    covered = "\n".join(dict.fromkeys(what for what, _, _ in code_rows()))
    wanted = ["Eq. 1", "Eq. 2", "Eq. 3", "guidance", "Section 3.4", "Section 4.2", "A.3", "C.1"]
    wanted += ["Algorithm 1a", "Algorithm 1b"]
    assert [w for w in wanted if w not in covered] == []


@pytest.mark.parametrize(("what", "file", "name"), code_rows())
def test_the_code_map_names_real_code(what: str, file: str, name: str):
    path = ROOT / file
    assert path.is_file(), f"{what}: no file {file}"
    if path.suffix == ".py":
        node = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for part in name.split("."):
            fields = getattr(node, "__dataclass_fields__", {})
            assert hasattr(node, part) or part in fields, f"{what}: {file} has no {name}"
            node = getattr(node, part, None)
    else:
        node = yaml.safe_load(read(path))
        for part in name.split("."):
            assert isinstance(node, dict) and part in node, f"{what}: {file} has no {name}"
            node = node[part]


def test_the_page_of_results_is_what_its_json_gives(tmp_path):
    page = write_results(ROOT / "benchmarks" / "results", tmp_path / "docs" / "results.md")
    assert read(page) == read(ROOT / "docs" / "results.md"), "run python -m planner.results"


def test_the_readmes_figures_are_those_of_the_results():
    """Each mean with an interval in README.md stands in docs/results.md, which is generated."""
    number = r"\d\.\d{3}"
    figures = re.findall(rf"({number}) m\**( \[{number}, {number}\])", read(ROOT / "README.md"))
    generated = read(ROOT / "docs" / "results.md")
    assert (
        figures and [mean + interval for mean, interval in figures if mean + interval not in generated] == []
    )
