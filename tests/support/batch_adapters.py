"""The batch interfaces by provider."""

from __future__ import annotations

ADAPTERS = {
    "openai": "tlac.lmms.batch_openai.OpenAIBatches",
    "anthropic": "tlac.lmms.batch_anthropic.AnthropicBatches",
    "gemini": "tlac.lmms.batch_gemini.GeminiBatches",
}
