"""Answers from the embedded tagger: real predictions of real images."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re

from tlac.config.registry import open_lmm
from tlac.config.schemas import load_backend
from tlac.types import Image, LMMRequest, Message

from .replies import Asked, Fault, Reply, Script


def tagger_script() -> Script:
    """A script that names what an image shows, and chooses the listed class that an answer names."""
    backend = load_backend("embedded")
    tagger = open_lmm(backend)

    def script(asked: Asked) -> Reply | Fault:
        if not asked.images:
            return Reply(choose(asked))
        image = Image(hashlib.sha256(asked.images[0]).hexdigest(), asked.images[0])
        request = LMMRequest("stage1", backend.spec.model, (Message("user", (image,)),))
        return Reply(asyncio.run(tagger.ask(request)).text)

    return script


def choose(asked: Asked) -> str:
    """The listed class with the longest name that stands in the text below the list, else the first class.

    Classes stand one a line, as "17: red car" where an index is asked for.
    """
    listed = re.findall(r"^(\d+): (.+)$", asked.text, re.MULTILINE)
    words = asked.text.rpartition(listed[-1][1] if listed else "\n\n")[2].lower()
    index = max(listed, key=lambda item: len(item[1]) if item[1].lower() in words else 0, default=("0", ""))[0]
    return json.dumps({"class_index": index}) if asked.schema else words
