"""A process that imports all that `tlac bench` needs, then runs it in a fork of itself for every line that it reads.

    python -m tests.support.forked_bench ARGUMENTS

Prints the id of each fork as it begins, and its exit status as it ends.
"""

from __future__ import annotations

import os
import sys

from tlac.cli import bench, main  # noqa: F401 - what a fork need not import again
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_encoder_config
from tlac.runtime.litellm_setup import load_litellm


def serve(arguments: list[str]) -> None:
    """Run the command once for each line of stdin."""
    for _ in sys.stdin:
        fork = os.fork()
        if fork == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            main(arguments)
        print(fork, flush=True)  # noqa: T201 - what the killer waits for
        print(os.waitpid(fork, 0)[1], flush=True)  # noqa: T201


if __name__ == "__main__":
    load_litellm()
    open_encoder(load_encoder_config("minilm")).encode(["a dog"])
    serve(sys.argv[1:])
