"""An episode's memories on disk, one folder a chunk, so that one can go back to an earlier chunk.

    episode_000123/chunk_00 … chunk_03, last

``chunk_NN`` is the memory after NN chunks were remembered; ``last`` is a copy of the one in use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from world_model.memory.adapter import MANIFEST, copy_folder
from world_model.memory.base import AnyMemory, MemoryFileError

LAST = "last"


def episode_folder(folder: str | Path, seed: int) -> Path:
    """Where the memories of the episode with this seed lie."""
    return Path(folder) / f"episode_{seed:06d}"


def save_chunk(memory: AnyMemory, state: Any, index: int, episode: Path, chunk: int) -> None:
    """Write episode ``index`` of a state as ``chunk_NN`` and as ``last``. Raises MemoryFileError."""
    folder = episode / f"chunk_{chunk:02d}"
    memory.save_episode(state, index, folder)
    copy_folder(folder, episode / LAST)


def saved_chunks(episode: Path) -> dict[int, Path]:
    """The folders of an episode by number of chunks remembered."""
    found = (p for p in episode.glob("chunk_*") if (p / MANIFEST).is_file())
    return {int(p.name.removeprefix("chunk_")): p for p in sorted(found)}


def undo(episode: str | Path, chunk: int) -> Path:
    """Make the memory after ``chunk`` chunks the episode's ``last`` again; later ones stay on disk.

    Returns:
        The folder of ``last``.

    Raises:
        MemoryFileError: no memory of that chunk.
    """
    chunks = saved_chunks(Path(episode))
    if chunk not in chunks:
        have = f"have chunks {', '.join(map(str, chunks))}" if chunks else "it holds no saved chunks"
        raise MemoryFileError(
            f"{episode} has no memory after chunk={chunk}; {have}. Give an episode's folder of a run with "
            "save_memory=true"
        )
    copy_folder(chunks[chunk], Path(episode) / LAST)
    return Path(episode) / LAST
