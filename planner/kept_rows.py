"""Where the planning table's rows are kept, by the weights that they were made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.files import read_json
from tasks.versions import Versions


def row_name(finished: Path) -> str:
    """Which row a file of figures is of."""
    return finished.stem.partition("-")[0]


@dataclass(frozen=True)
class KeptRow:
    """One row's files in a run directory.

    Attributes:
        name: the row's.
        versions: what it is made with.
    """

    run_dir: Path
    name: str
    versions: Versions

    @property
    def finished(self) -> Path:
        """The row's figures."""
        return self.run_dir / "finished" / f"{self.name}{self.versions.key}.json"

    def episodes(self, training: int = 0) -> Path:
        """The folder of one training's episodes; any list of trainings that holds this one shares it."""
        alone = Versions(self.versions.reader, self.versions.trainings[training : training + 1])
        return self.run_dir / "rows" / f"{self.name}{alone.key}"

    def column(self, folder: str) -> Path:
        """Where a further column's figures are kept, which are of the first training."""
        return self.run_dir / folder / f"{self.episodes().name}.json"

    @property
    def made_with(self) -> dict[str, Any]:
        """What the row's figures say of it, for :func:`finished_rows`."""
        return {"made_with": asdict(self.versions)}


def finished_rows(run_dir: Path, asked: Sequence[KeptRow], reader: str) -> list[KeptRow]:
    """The finished rows that a table shows: those that are asked for, and of the others the newest that was made with
    this inverse dynamics model, or needed none."""
    found = {row.name: row for row in asked if row.finished.is_file()}
    paths = (run_dir / "finished").glob("*.json")
    for path in sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True):
        made = read_json(path).get("made_with")
        if made is None:  # of an older version
            continue
        row = KeptRow(run_dir, row_name(path), Versions(made["reader"], tuple(made["trainings"])))
        if row.name not in found and row.versions.reader in (reader, None):
            found[row.name] = row
    return list(found.values())
