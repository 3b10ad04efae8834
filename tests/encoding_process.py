"""One of several processes that encode a dataset: ``encoding_process.py DATA FOLDER``. The last one begins late."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from tiny import make_autoencoder

from tasks.dataset import load_episodes
from world_model import latents
from world_model.data.footage import Footage
from world_model.latents import KeptLatents
from world_model.launch import accelerator_on, patient_group


def main() -> None:
    accelerator = accelerator_on(torch.device("cpu"), "fp32")
    latents.PART = 20
    footage = Footage([load_episodes(Path(sys.argv[1]))])
    kept = KeptLatents(footage, make_autoencoder(), range(6), Path(sys.argv[2]))
    if accelerator.is_last_process:
        time.sleep(2)
    kept.encode(accelerator)
    rank, count = accelerator.process_index, accelerator.num_processes
    mine = sorted(p.name for p in kept.folder.iterdir())[rank::count]
    backend = patient_group()._get_backend(torch.device("cpu"))
    timeout = backend.options._timeout  # type: ignore[attr-defined]
    print(f"{rank} wrote {mine} and read {len(kept.read())}, waits {timeout}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
