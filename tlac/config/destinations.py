"""Where a key may be sent: one rule for live calls, batches, checks and encoders."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from tlac.config.files import UntrustedFileError
from tlac.config.schemas import Backend, EncoderConfig

_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
# providers whose calls carry the key that a backend names, or a placeholder, and nothing of the environment
_PLAIN_KEY = frozenset(["openai", "anthropic", "gemini", "ollama_chat", "hosted_vllm"])
# how the variables of a provider's keys begin, where not with its name
_KEY_NAMES: dict[str, tuple[str, ...]] = {
    "gemini": ("GEMINI_", "GOOGLE_"),
    "vertex_ai": ("VERTEX", "GOOGLE_"),
    "bedrock": ("AWS_", "BEDROCK_"),
    "huggingface": ("HF_", "HUGGINGFACE_"),
    "together_ai": ("TOGETHER",),
    "fireworks_ai": ("FIREWORKS",),
    "ollama_chat": ("OLLAMA_",),
}
# what shapes an answer; other parameters of litellm name addresses, regions and credentials
_SAMPLING = ("temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty")
_LENGTH = ("max_tokens", "max_completion_tokens", "reasoning_effort", "thinking", "verbosity", "num_ctx")
_HARMLESS = frozenset([*_SAMPLING, *_LENGTH, "logprobs", "top_logprobs"])


def is_this_machine(address: str) -> bool:
    """Whether a URL names this machine."""
    # HTTP clients don't agree on the host of an address with these
    if set(address) & {"\\", "@"}:
        return False
    try:
        return urlsplit(address).hostname in _THIS_MACHINE
    except ValueError:
        return False


def check_destination(config: Backend | EncoderConfig) -> None:
    """Check that a key goes to the provider that it is for, to this machine, or where the user's own settings say.

    Raises UntrustedFileError for a stranger's file that would send it elsewhere.
    """
    spec, origin = config.spec, config.stranger
    if origin is None:
        return
    provider = spec.model.partition("/")[0]
    # an address that the user's environment gives is the user's own
    is_from_environment = bool(os.environ.get(getattr(spec, "api_base_env", None) or ""))
    address = None if is_from_environment else spec.api_base
    complaint = ""
    if address is not None and not is_this_machine(address):
        if spec.api_key_env is not None:
            complaint = f"would send the key in {spec.api_key_env} to {address}"
        elif provider not in _PLAIN_KEY:
            complaint = f"would send credentials of {provider} to {address}"
    elif address is None and not is_from_environment and spec.api_key_env is not None:
        begins = _KEY_NAMES.get(provider, (f"{provider.upper()}_",))
        if not spec.api_key_env.upper().startswith(begins):
            complaint = f"would send the key in {spec.api_key_env} to {provider}"
    if not complaint and spec.adapter == "litellm" and (odd := sorted(_parameters(spec) - _HARMLESS)):
        complaint = f"sets {odd[0]!r}, which may say where a key is sent"
    if complaint:
        raise UntrustedFileError(f"{config.source}: {config.name!r} {complaint}", *origin)


def _parameters(spec: Any) -> set[str]:
    sections = ("params", "stage1_params", "stage2_params")
    return {name for section in sections for name in getattr(spec, section, {})}
