"""The world model: masked conditional video diffusion with fast and slow learning.

for chunk in world_model.stream(image, actions):
    show(chunk.frames[0])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from world_model.model import Chunk


def stream(
    image: np.ndarray | str | Path,
    actions: Iterable[str],
    task: str = "cube_return",
    weights: str | Path | None = None,
    memory: Any = None,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[Chunk]:
    """A long video, chunk by chunk, from the weights that are shipped for a task.

    Args:
        image: ``(H, W, 3)`` uint8, sides as the weights know them; or a picture's path, cut and resized to 64 px.
        actions: taken one by one, each when the chunk before it has been given; free text.
        weights: a world model's folder or Hub id instead.
        memory: a memory instead of Temp-LoRA.
        seed: of every random draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Yields:
        A chunk an action: ``chunk.frames`` is ``(1, F, H, W, 3)`` uint8.

    Raises:
        PictureError, CommandError, CheckpointError: no such picture, or no such weights.
        ActionError: an empty action, one too long, or with a control character.
    """
    from tasks.shipped import weights_folder
    from world_model.action_lines import read_action
    from world_model.device import pick_device
    from world_model.memory.temp_lora import TempLora
    from world_model.model import WorldModel
    from world_model.picture import read_picture

    memory = TempLora() if memory is None else memory
    folder = weights_folder(None if weights is None else str(weights), task, "world_model", memory.name)
    frame = read_picture(Path(image), 64)[0] if isinstance(image, str | Path) else image
    model = WorldModel.from_pretrained(folder, memory, pick_device(device))
    said = (read_action(text.encode(), f"action {n}") for n, text in enumerate(actions, 1))
    yield from model.stream(frame, said, seed)
