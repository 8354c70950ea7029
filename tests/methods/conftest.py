"""A folder of small pictures and small CLIP weights, for the methods that look at images."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from tests.support.clip_models import MODELS
from tests.support.fakes import make_png


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "tlac-tiny.json").write_text(json.dumps(MODELS["tlac-tiny"]))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tlac-tiny").state_dict(), folder / "tlac-tiny.pt")
    return folder / "tlac-tiny.pt"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number in range(6):
        place = tmp_path / "pets" / ("tabby_cat", "dog", "emu")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(make_png(number, side=40))
    return tmp_path / "pets"
