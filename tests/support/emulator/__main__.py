"""`python -m tests.support.emulator`: run the emulator until Ctrl-C."""

from __future__ import annotations

import argparse
import time

from .replies import Fault, default_script, random_faults
from .server import running_emulator

FAULTS = (Fault(status=429, retry_after="1"), Fault(status=500), Fault("dropped"))


def main() -> None:
    """Parse the arguments, serve, and say which variables point tlac here."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--answers", choices=["script", "tagger"], default="script")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of answers that fail, 0 to 1")
    given = parser.parse_args()
    script = default_script
    if given.answers == "tagger":
        from .tagger import tagger_script

        script = tagger_script()
    with running_emulator(random_faults(script, given.fault_rate, FAULTS), given.port) as emulator:
        for variable, provider in (("GEMINI", "gemini"), ("OPENAI", "openai"), ("ANTHROPIC", "anthropic")):
            print(f"export {variable}_API_BASE={emulator.base(provider)} {variable}_API_KEY=not-a-key", flush=True)  # noqa: T201
        print(f"export OLLAMA_API_BASE={emulator.base('ollama')}", flush=True)  # noqa: T201
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
