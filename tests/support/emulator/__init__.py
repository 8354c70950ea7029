"""A local server that speaks the wire formats of Gemini, OpenAI, Anthropic and Ollama.

It holds requests against the providers' own published types, answers from a script or from the embedded tagger,
and fails on demand. Tests, cassettes and the speed harness use it;
`python -m tests.support.emulator` starts it by hand.
"""

from .batches import Batch, BatchControls
from .replies import Asked, Fault, Reply, Script, random_faults, script_of
from .server import Emulator, running_emulator

__all__ = [
    "Asked",
    "Batch",
    "BatchControls",
    "Emulator",
    "Fault",
    "Reply",
    "Script",
    "random_faults",
    "running_emulator",
    "script_of",
]
