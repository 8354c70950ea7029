"""How near first answers come to the true class, without a class list: the open-world measures of arXiv:2503.21851.

Text inclusion is theirs. Similarities are those of whichever text encoder is given, theirs are Sentence-BERT's; and the
concepts of an answer are the runs of words between punctuation and function words, theirs are a parser's noun chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tlac.scoring.predictions import OUTCOMES, Predictions
from tlac.types import Encoding, Float64Array, Outcome

_PUNCTUATION = re.compile(r"[,.;:!?()\"“”\n]+")
_FUNCTION_WORDS = re.compile(
    r"(?:a|an|the|this|that|these|those|it|its|there|some|any|no|and|or|but|nor|of|in|on|"
    r"at|by|for|with|without|from|to|into|onto|over|under|near|beside|behind|above|below|"
    r"between|against|through|across|around|off|up|down|out|as|than|like|is|are|was|were|"
    r"be|being|been|has|have|had|do|does|did|can|could|may|might|will|would|shall|should|"
    r"must|shows|show|showing|depicts|features|contains|appears|seems|looks|which|who|whose|"
    r"while|where|when|very|image|photo|picture)",
    re.IGNORECASE,
)


_NO_ANSWER = [OUTCOMES.index(one) for one in (Outcome.REFUSED, Outcome.EMPTY, Outcome.TRUNCATED)]


def measure_open_world(
    predictions: Predictions, classes: tuple[str, ...], encode: Callable[[Sequence[str]], Encoding]
) -> dict[str, float] | None:
    """The measures of a run's first answers by name; None where no sample is labelled, or every call failed.

    They are means over `n` labelled samples, of which `answered` have a first answer; one that was refused, cut short
    or not given counts as 0. `text_inclusion` is the share whose answer holds the class name, whatever its case; the
    similarities are cosines of what a text encoder `encode`s.
    """
    # an answer is looked at once for each class that it is about
    pairs: dict[tuple[int, str], int] = {}
    labelled = 0
    answers = predictions.decisions.answer
    # whose first answer was none asked for no choice
    is_cut = np.isin(predictions.outcome, _NO_ANSWER) & ~predictions.stage2_key.any(axis=1)
    rows = zip(predictions.label.tolist(), predictions.decision.tolist(), is_cut.tolist(), strict=True)
    for label, place, no_answer in rows:
        labelled += label >= 0
        if label >= 0 and not no_answer and (answer := answers[place]):
            pairs[label, answer] = pairs.get((label, answer), 0) + 1
    if not labelled or (predictions.outcome == OUTCOMES.index(Outcome.FAILED)).all():
        return None
    names = [classes[label].replace("_", " ") for label, _ in pairs]
    texts = [answer for _, answer in pairs]
    counts = np.array(list(pairs.values()), np.float64)
    concepts = [find_concepts(text) or [text] for text in texts]
    flat = [concept for found in concepts for concept in found]
    owners = np.repeat(np.arange(len(texts)), [len(found) for found in concepts])
    by_concept = np.full(len(texts), -1.0)
    np.maximum.at(by_concept, owners, _cosines(encode, flat, [names[owner] for owner in owners]))
    is_included = np.array([name.lower() in text.lower() for name, text in zip(names, texts, strict=True)], np.float64)
    return {
        "n": labelled,
        "answered": sum(pairs.values()),
        "text_inclusion": float(counts @ is_included) / labelled,
        "semantic_similarity": float(counts @ _cosines(encode, texts, names)) / labelled,
        "concept_similarity": float(counts @ by_concept) / labelled,
    }


def find_concepts(text: str) -> list[str]:
    """The runs of words of an answer between punctuation and function words, in order."""
    found: list[str] = []
    for clause in _PUNCTUATION.split(text):
        run: list[str] = []
        for word in [*clause.split(), "the"]:
            if _FUNCTION_WORDS.fullmatch(word):
                found += [" ".join(run)] if run else []
                run = []
            else:
                run.append(word)
    return found


def _cosines(encode: Callable[[Sequence[str]], Encoding], texts: list[str], names: list[str]) -> Float64Array:
    """The cosine of each text with the name beside it, (n,)."""
    if not texts:
        return np.zeros(0)
    ours, theirs = (encode(given).vectors.astype(np.float64) for given in (texts, names))
    cosines: Float64Array = np.einsum("nd,nd->n", ours, theirs)
    return cosines
