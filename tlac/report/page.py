"""The page of a run: report.html, one self-contained file.

Everything that comes from outside is escaped by the template engine. Does not know how runs are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import jinja2

from tlac.metrics import Metrics
from tlac.runs import RunRecord
from tlac.types import Prediction


def render_run(record: RunRecord, predictions: Sequence[Prediction], metrics: Metrics) -> str:
    """The HTML page of one run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tlac", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("run.html")
    return template.render(record=record, predictions=predictions, metrics=metrics)
