"""A real OpenAI-compatible server for tests: ``PYTHON llm_server.py FILE.gguf`` prints its address, then serves.

llama.cpp's own server, from xllamacpp's wheel. It ends when it is killed or its stdin closes.
"""

from __future__ import annotations

import os
import sys

import xllamacpp


def main(weights: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.n_ctx = 4096
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)  # on a free port of this machine alone
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
