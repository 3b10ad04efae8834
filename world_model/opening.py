"""Opens networks that diffusers or transformers saved: from safetensors alone, whole or not at all, in silence.

Both libraries fall back on pickled files, draw what a file lacks, and log that on stderr beside whatever error a
command prints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_log
from transformers.utils import logging as transformers_log


@contextmanager
def silence() -> Iterator[None]:
    """While open, neither library logs anything or draws a progress bar."""
    kept = diffusers_log.get_verbosity(), transformers_log.get_verbosity()
    bar = transformers_log.is_progress_bar_enabled()
    diffusers_log.set_verbosity(logging.CRITICAL)
    transformers_log.set_verbosity(logging.CRITICAL)
    transformers_log.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_log.set_verbosity(kept[0])
        transformers_log.set_verbosity(kept[1])
        if bar:
            transformers_log.enable_progress_bar()


def open_network(kind: type, folder: Path, spare: bool = False, **options: Any) -> Any:
    """The network in ``folder``, of one of diffusers' or transformers' classes.

    Args:
        kind: the class; its ``from_pretrained`` is called.
        spare: tensors of the file that the network has no place for are no error.
        options: of ``from_pretrained``.

    Raises:
        ValueError: a file is missing or damaged, or a tensor of the network is not there or of another shape.
    """
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no .safetensors file; get the folder again")
    try:
        with silence():
            network, info = kind.from_pretrained(  # type: ignore[attr-defined]
                folder, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # many types for a damaged folder
        raise ValueError(f"{folder} is damaged ({type(error).__name__}: {error})") from None
    for what in ("missing_keys", "mismatched_keys", *([] if spare else ["unexpected_keys"])):
        if keys := sorted(map(str, info[what])):
            raise ValueError(f"{folder}: {len(keys)} {what.replace('_keys', ' tensors')}, e.g. {keys[0]}")
    return network
