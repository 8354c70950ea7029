from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants

from tlac.runtime.hub import http_errors


def test_an_error_of_the_client_that_the_hub_s_library_uses_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    session = huggingface_hub.get_session()
    with pytest.raises(http_errors()):
        session.head("http://127.0.0.1:9", timeout=5.0)
