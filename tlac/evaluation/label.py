"""Labels for images that have none: one row an image, as it is decided.

labelling = Labelling(runner, config)
write_labels(labelling.rows(), Path("labels.csv"))
labelling.usage.cost_usd
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from tlac.evaluation.collect import CollectProgress
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.interfaces import ImageMethod
from tlac.results.labels import Label
from tlac.results.usage import UsageLedger
from tlac.scoring.confidence import abstain, confidences
from tlac.scoring.predictions import Predictions
from tlac.types import Prediction, Transcript


class Labelling:
    """One run over unlabelled images, and what it has come to so far.

    `failures` counts samples that failed by the kind of their failure, `reasons` all that have no label by what is said
    of them.
    """

    def __init__(self, runner: Runner, config: RunConfig) -> None:
        """Open all that is needed, so that what can't be had is known before anybody is asked. Raises as `prepare`."""
        self.runner, self.config = runner, runner.resolve(config)
        self.count = 0
        self.failures: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.usage = UsageLedger()
        self._open: Callable[[CollectProgress | None], Iterable[tuple[list[Transcript], Predictions]]]
        method = self.config.opened_method
        if isinstance(method, ImageMethod):
            self._open = partial(runner.look, self.config, method)
        else:
            self._open = partial(runner.stream, runner.prepare(self.config), self.config.samples)

    @property
    def labelled(self) -> int:
        """How many have a label."""
        return self.count - self.reasons.total()

    def rows(self, progress: CollectProgress | None = None) -> Iterator[Label]:
        """A row for each sample, in their order. Raises KeyboardInterrupt when interrupted, after the decided rows."""
        for transcripts, scored in self._open(progress):
            for label, _ in label_block(transcripts, scored, self.config, self.usage):
                self.count += 1
                if label.label is None:
                    self.reasons[label.reason or str(label.outcome)] += 1
                yield label
            self.failures.update(one.failure for one in transcripts if one.failure is not None)


def label_block(
    transcripts: Sequence[Transcript], predictions: Predictions, config: RunConfig, usage: UsageLedger
) -> Iterator[tuple[Label, Prediction]]:
    """The label of each transcript and the prediction that it is of; `usage` tells which answers earlier rows had."""
    classes = config.dataset.classes
    sure = confidences(predictions.decisions, config.calibration)[predictions.decision].tolist()
    kept = abstain(predictions, config.abstain_below, config.calibration)
    for transcript, prediction, confidence in zip(transcripts, kept, sure, strict=True):
        candidates = tuple((classes[index], score) for index, score in prediction.top5)
        label = Label(
            path=prediction.sample,
            label=None if prediction.predicted is None else classes[prediction.predicted],
            # NaN where there is no class to be sure of
            confidence=confidence if confidence == confidence else None,  # noqa: PLR0124
            runner_up=candidates[1][0] if len(candidates) > 1 else None,
            margin=prediction.margin,
            answer=prediction.answer or None,
            outcome=prediction.outcome,
            reason=prediction.reason.removeprefix(f"{prediction.sample}: "),
            cost_usd=usage.add(transcript.turns),
            sha256=prediction.image_sha256,
            candidates=candidates,
        )
        yield label, prediction
