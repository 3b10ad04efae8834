"""Weights by Hub id: from a cache as the Hub's client lays it out, and from a server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tiny import frames, save_modelscope

from planner.table_rows import rows_at_hand
from tasks.commands import CommandError, compose
from tasks.hub import HubError, hub_id, hub_name, located
from tasks.shipped import shown, weights_folder
from world_model.autoencoder import FrameAutoencoder
from world_model.model import WorldModel, fingerprint
from world_model.training import CheckpointError

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


def in_a_process(code: str, *arguments: str, **environment: str) -> list[str]:
    """The lines that a process of its own prints: the Hub's client reads the environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def asked(*names: str, **environment: str) -> list[str]:
    """What ``weights_folder`` says of each name, an error or a folder."""
    code = (
        "import sys\n"
        "from tasks.commands import CommandError\n"
        "from tasks.shipped import weights_folder\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(weights_folder(name, 'cube_return', 'world_model'))\n"
        "    except CommandError as error: print(error)\n"
    )
    said = in_a_process(code, *names, **environment)
    assert len(said) == len(names)
    return said


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ali-vilab/text-to-video-ms-1.7b", ("ali-vilab/text-to-video-ms-1.7b", None)),
        ("someone/model@refs/pr/3", ("someone/model", "refs/pr/3")),
        (f"someone/model@{COMMIT}", ("someone/model", COMMIT)),
        ("someone", None),
        ("someone/deep/er", None),
        ("/absolute/path", None),
        ("./someone/model", None),
        ("../model", None),
        ("world_model/absent", None),  # below a folder that is here
        ("someone/model@", None),
        ("some one/model", None),
    ],
)
def test_what_can_be_a_hub_id(name, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert hub_id(name) == expected


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert located("someone/model") == Path("someone/model")
    assert located("someone/absent") == Path("someone/absent"), "a path below a folder that is here"
    with pytest.raises(CommandError, match=r"^world_model weights: someone/absent is missing$"):
        weights_folder("someone/absent", "cube_return", "world_model")


def test_a_cached_folder_is_shown_by_its_id(tmp_path):
    folder = tmp_path / "hub" / "models--ali-vilab--text-to-video-ms-1.7b" / "snapshots" / COMMIT
    assert hub_name(folder) == shown(folder) == "ali-vilab/text-to-video-ms-1.7b@01234567"
    assert shown(folder / "world_model") == "ali-vilab/text-to-video-ms-1.7b@01234567/world_model"
    assert hub_name(tmp_path) is None and shown(tmp_path) == str(tmp_path)
    assert shown(ROOT / "weights") == "weights"


# --- a cache -----------------------------------------------------------------------------------


def cached(home: Path, name: str, files: Path, commit: str = COMMIT, ref: str = "main") -> Path:
    """Put a folder's files into the Hub's cache as its client does: blobs, links to them by commit, a ref."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for source in (p for p in files.rglob("*") if p.is_file()):
        blob = folder / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copyfile(source, blob)
        link = folder / "snapshots" / commit / source.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    return folder / "snapshots" / commit


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A shrunk ModelScopeT2V folder, with a variant beside its UNet."""
    folder = save_modelscope(tmp_path_factory.mktemp("published") / "model")
    shutil.rmtree(folder / "vocabulary")
    (folder / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half precision, not read")
    return folder


def test_a_world_model_opens_by_its_id_from_the_cache(published, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )  # read when it is imported
    cached(tmp_path, "someone/model", published)
    cached(tmp_path, "someone/model", published, OTHER, "refs/pr/1")
    local = WorldModel.from_pretrained(published)
    seen = frames(2)
    for name, commit in {
        "someone/model": COMMIT,
        "someone/model@refs/pr/1": OTHER,
        f"someone/model@{OTHER}": OTHER,
    }.items():
        model = WorldModel.from_pretrained(name)
        assert model.version == local.version
        assert torch.equal(model.autoencoder.encode(seen), local.autoencoder.encode(seen))
        assert shown(weights_folder(name, "cube_return", "world_model")) == f"someone/model@{commit[:8]}"
        for folder in (name, published, published / "vae"):
            autoencoder = FrameAutoencoder.from_pretrained(folder)
            assert torch.equal(autoencoder.encode(seen), local.autoencoder.encode(seen))
    with pytest.raises(
        CheckpointError, match=r"^weights=someone/other: someone/other is missing here, and the Hub's"
    ):
        WorldModel.from_pretrained("someone/other")
    with pytest.raises(HubError, match=r"^someone/other is missing here, and the Hub's"):
        FrameAutoencoder.from_pretrained("someone/other")


def test_a_variant_beside_the_weights_does_not_change_their_version(published, tmp_path):
    plain = shutil.copytree(published, tmp_path / "plain")
    (plain / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert fingerprint(plain) == fingerprint(published)


def test_the_folder_above_may_lie_on_the_hub(published, tmp_path):
    """``weights/TASK`` as one repository: world model, finetuned one and inverse dynamics model."""
    for part in ("world_model", "world_model-temp_lora"):
        shutil.copytree(published, tmp_path / "task" / part)
    snapshot = cached(tmp_path, "someone/task", tmp_path / "task")
    [folder] = asked("someone/task", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert Path(folder) == snapshot / "world_model"


def test_offline_what_is_not_cached_is_one_line(published, tmp_path):
    home = tmp_path / "home"
    (tmp_path / "pickled" / "unet").mkdir(parents=True)
    (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    cached(home, "someone/pickled", tmp_path / "pickled")
    cached(home, "someone/model", published)
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    absent, pickled, revision = asked("nobody/nothing", "someone/pickled", "someone/model@v2", **environment)
    assert absent.startswith("world_model weights: nobody/nothing is missing here, and the Hub's cache (")
    assert absent.endswith("HF_HUB_OFFLINE forbids to fetch it: unset it, or give a folder")
    assert "someone/pickled on the Hub holds no .safetensors file" in pickled and "@refs/pr/1" in pickled
    assert revision.startswith("world_model weights: someone/model@v2 is missing here")


def test_a_table_does_not_drop_the_rows_of_weights_that_can_not_be_had():
    with pytest.raises(CommandError, match="nobody/nothing is missing here"):
        rows_at_hand(compose("evaluate", ["task=cube_return", "weights=nobody/nothing"]))
    with pytest.raises(CommandError, match="nobody/loop is missing here"):
        rows_at_hand(compose("evaluate", ["task=cube_return", "loop_weights.temp_lora=nobody/loop"]))


# --- a server ----------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves one folder as ``someone/model``, and answers with an error for other names."""

    daemon_threads = True

    def __init__(self, files: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()
        }
        self.fetched: set[str] = set()
        self.authorization: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


REFUSED = {
    "nobody/nothing": (404, "RepoNotFound"),
    "nobody/private": (401, None),
    "someone/gated": (403, "GatedRepo"),
    "someone/broken": (500, None),
    "someone/forbidden": (403, None),
}


class Answer(BaseHTTPRequestHandler):
    """The few of the Hub's paths that a download asks for: a revision, its tree, its files."""

    server: Hub

    def do_GET(self) -> None:
        self.server.authorization.add(self.headers.get("Authorization", ""))
        path = self.path.split("?")[0].removeprefix("/api/models").strip("/")
        repository = "/".join(path.split("/")[:2])
        if repository in REFUSED:
            return self.refuse(*REFUSED[repository])
        rest = path.removeprefix(f"{repository}/")
        if rest.startswith("resolve/"):
            return self.give_file(rest.split("/", 2)[2])
        if rest in (repository, "revision/main"):
            return self.give(json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode())
        if rest.startswith(f"tree/{COMMIT}"):
            found = self.server.files.items()
            tree = [{"type": "file", "path": n, "size": len(d), "oid": blob_id(d)} for n, d in found]
            return self.give(json.dumps(tree).encode())
        return self.refuse(404, "RevisionNotFound")

    do_HEAD = do_GET

    def give_file(self, name: str) -> None:
        data = self.server.files[name]
        if self.command == "GET":
            self.server.fetched.add(name)
        self.give(data, {"ETag": f'"{blob_id(data)}"', "X-Repo-Commit": COMMIT})

    def refuse(self, status: int, code: str | None) -> None:
        self.give(b'{"error": "no"}', {"X-Error-Code": code} if code else {}, status)

    def give(self, data: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def blob_id(data: bytes) -> str:
    """Git's name for a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture(scope="module")
def hub(published, tmp_path_factory) -> Iterator[Hub]:
    files = shutil.copytree(published, tmp_path_factory.mktemp("served") / "model")
    (files / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    (files / "README.md").write_text("a card")
    server = Hub(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_opened_is_downloaded_once_and_nothing_else(hub, published, tmp_path):
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    online = asked("someone/model", "someone/model@main", **environment)
    cache = tmp_path / "hub" / "models--someone--model" / "snapshots" / COMMIT
    assert [Path(folder) for folder in online] == [cache, cache]
    expected = {p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file()}
    expected.remove("unet/diffusion_pytorch_model.fp16.safetensors")
    assert {p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file()} == expected
    assert hub.fetched == expected, "no card, no variant, nothing pickled"
    assert fingerprint(cache) == fingerprint(published)
    hub.fetched.clear()
    assert asked("someone/model", **environment) == [str(cache)] and hub.fetched == set()
    assert asked("someone/model", **environment | {"HF_HUB_OFFLINE": "1"}) == [str(cache)]
    assert asked("someone/model", **environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}) == [str(cache)]


ANSWERS = {
    "nobody/nothing": "the Hub has no such repository, or a private one; check the name, or set HF_TOKEN",
    "nobody/private": "the Hub has no such repository, or a private one; check the name, or set HF_TOKEN",
    "someone/gated": "the Hub gives someone/gated only who accepted its terms; do so on its page, then set HF_TOKEN",
    "someone/model@v2": "the Hub's someone/model has no such revision; give a branch, a tag, a commit or refs/pr/N",
    "someone/broken": "{url} answers 500; try again later, or give a folder",
    "someone/forbidden": "{url} answers 403; try again later, or give a folder",
}


def test_what_the_hub_refuses_is_one_line(hub, tmp_path):
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_secret",
    }
    said = asked(*ANSWERS, **environment)
    assert said == [
        f"world_model weights: {name} is missing here, and {why.format(url=hub.url)}"
        for name, why in ANSWERS.items()
    ]
    assert "Bearer hf_secret" in hub.authorization and "hf_secret" not in "".join(said)


def test_a_hub_that_is_not_reached_is_one_line(tmp_path):
    nowhere = "http://127.0.0.1:9"  # the port that discards; nothing listens
    [said] = asked("someone/model", HF_HOME=str(tmp_path), HF_ENDPOINT=nowhere, HF_HUB_OFFLINE="0")
    assert said.startswith("world_model weights: someone/model is missing here, and the Hub's cache (")
    assert said.endswith(f"{nowhere} can't be reached: check the network, or give a folder")


def test_torch_is_not_needed_to_find_weights():
    assert in_a_process("import sys, tasks.hub, tasks.shipped; print('torch' in sys.modules)") == ["False"]
