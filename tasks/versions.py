"""Names for what is kept of a table's rows, by the weights that made them.

So a run directory takes other weights at any time: what was made with the same ones is not made again, and nothing of
others is counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tasks.files import sha256_of


@dataclass(frozen=True)
class Versions:
    """Fingerprints of the weights behind a row of a table.

    Attributes:
        reader: of the inverse dynamics model; None for a row without one.
        trainings: of the world models, one for each training; empty for a row without any.
    """

    reader: str | None = None
    trainings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A name for files; empty for a row without weights."""
        return f"-{sha256_of(asdict(self))[:8]}" if self.reader or self.trainings else ""
