"""What a run would take before it is started: calls, tokens, money, time.

Learns from stored answers of the same backend on the same images where there are any, else reckons by rule of
thumb, and says which. Does not know the terminal.

And what the answers of a finished run would cost at today's prices, beside what they did cost: from usage in the store.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.prompts import PromptSet
from tlac.config.registry import base_name, batch_discount, load_plugin, method_options, with_option
from tlac.config.schemas import Backend, BackendSpec, Prices, load_backend
from tlac.errors import MissingAnswersError, UsageError
from tlac.evaluation.dry_run import dry_run, with_spread_hints
from tlac.evaluation.run_config import RunConfig
from tlac.interfaces import looks_again, prompts_of, second_sample_of
from tlac.lmms.prices import cost_usd, prices_of
from tlac.results.folder import read_record
from tlac.results.predictions import PREDICTIONS, read_asked
from tlac.runtime.formatting import dollars
from tlac.types import (
    SECOND_SAMPLE,
    ChoiceTask,
    Image,
    LMMResponse,
    Message,
    Outcome,
    Sample,
    Stage,
    TextPart,
    Transcript,
    Turn,
    Usage,
)

# rules of thumb: English text has about four characters a token; providers count an image of some 500 to 1,500
# pixels as 250 to 1,600 tokens
_CHARACTERS_PER_TOKEN = 4
_IMAGE_TOKENS = 1000
_ANSWER_TOKENS = 40
_LATENCY_S = 2.0
# the time in which every provider's batch interface promises to be done
_BATCH_S = 86_400.0
PART = 200
ESTIMATED = ("slac", "tlac", "tlac-shortlist", "tlac-cascade")
"""The methods whose calls can be reckoned before they are made."""
_TYPICAL_ANSWER = "a typical first answer of some twelve words, give or take a few"


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: `calls` still to be made, answers `stored`, tokens and USD of the calls to be made.

    `learned_from` is the number of stored answers that tokens are reckoned from; 0 means by rule of thumb.
    """

    calls: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    learned_from: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole run. `cost_usd` is None where no price is known. `time_s` supposes that nothing slows the calls
    but their latency, the concurrency and the backend's own limit of calls a minute; of batches it is the longest that
    they may take, each stage after the other."""

    stage1: StageEstimate
    stage2: StageEstimate
    cost_usd: float | None
    time_s: float


def estimate(
    config: RunConfig,
    samples: Collection[Sample],
    store: Store,
    concurrency: int,
    is_batch: bool = False,
) -> Estimate:
    """What asking about these samples would take, beyond what is stored; with `is_batch`, through the providers' batch
    interfaces. Reads each image once, counts equal ones once; a method of `ESTIMATED`.

    Raises StoreError, InputError, UsageError where a backend has no batch interface.
    """
    discounts = [batch_discount(backend) if is_batch else 0.0 for backend in config.asked]
    config = with_spread_hints(config, store)
    # nobody is asked about an image that can't be read, and about equal ones once
    found, _ = dry_run(config, samples, store)
    transcripts = list({one.image_sha256 or one.sample: one for one in found if one.failure != "sample"}.values())
    readable = len(transcripts)
    stage1 = [turn for transcript in transcripts for turn in transcript.turns if turn.stage == "stage1"]
    stage2 = [turn for transcript in transcripts for turn in transcript.turns if turn.stage == "stage2"]
    looks = 0
    if getattr(config.opened_method, "is_sequential", False):
        calls1, calls2, looks = _sequential_calls(transcripts, readable)
        seconds = sum(turn.member == SECOND_SAMPLE for turn in stage1)
        calls1 += readable - seconds if second_sample_of(config.opened_method) else 0
    else:
        calls1 = readable * (1 + len(prompts_of(config.opened_method))) - len(stage1)
        calls2 = 0 if base_name(config.method) == "slac" else _second_calls(transcripts, readable)
    first = _stage(config, "stage1", calls1, stage1, _first_prompt_tokens(config))
    chosen = [turn for turn in stage2 if not turn.has_image]
    second = _stage(config, "stage2", calls2, chosen, _second_prompt_tokens(config))
    if looks_again(config.opened_method):
        looked = [turn for turn in stage2 if turn.has_image]
        second = _added(second, _stage(config, "stage2", looks, looked, _look_prompt_tokens(config)))
    first, second = (_discounted(stage, saved) for stage, saved in zip((first, second), discounts, strict=True))
    costs = (first.cost_usd, second.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return Estimate(
        first,
        second,
        sum(known) if len(known) == len(costs) else None,
        _BATCH_S * sum(stage.calls > 0 for stage in (first, second))
        if is_batch
        else _time_s(config, first, second, [*stage1, *stage2], concurrency),
    )


def estimate_by_part(
    config: RunConfig, store: Store, concurrency: int, is_batch: bool = False, most: int = PART
) -> Estimate:
    """As `estimate`, of all samples of the config, from at most so many of them, drawn at random: what it takes for a
    hundred thousand images is known in a moment."""
    samples = list(config.samples)
    part = samples if len(samples) <= most else random.Random(0).sample(samples, most)  # noqa: S311 - no secret
    found, factor = estimate(config, part, store, concurrency, is_batch), len(samples) / max(len(part), 1)
    first, second = (_scaled(stage, factor) for stage in (found.stage1, found.stage2))
    cost_usd = None if found.cost_usd is None else found.cost_usd * factor
    return Estimate(first, second, cost_usd, found.time_s if is_batch else found.time_s * factor)


def _scaled(stage: StageEstimate, factor: float) -> StageEstimate:
    return replace(
        stage,
        calls=round(stage.calls * factor),
        stored=round(stage.stored * factor),
        prompt_tokens=round(stage.prompt_tokens * factor),
        completion_tokens=round(stage.completion_tokens * factor),
        cost_usd=None if stage.cost_usd is None else stage.cost_usd * factor,
    )


def _added(one: StageEstimate, other: StageEstimate) -> StageEstimate:
    is_priced = one.cost_usd is not None and other.cost_usd is not None
    return StageEstimate(
        one.calls + other.calls,
        one.stored + other.stored,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        (one.cost_usd or 0.0) + (other.cost_usd or 0.0) if is_priced else None,
        one.learned_from + other.learned_from,
    )


def _discounted(stage: StageEstimate, saved: float) -> StageEstimate:
    return stage if stage.cost_usd is None else replace(stage, cost_usd=stage.cost_usd * (1 - saved))


def _stage(config: RunConfig, stage: Stage, calls: int, turns: Sequence[Turn], rule_of_thumb: int) -> StageEstimate:
    backend = config.asked[stage == "stage2"]
    distinct = _distinct(turns)
    counted = [response for response in distinct if response.usage.prompt]
    prompt = fmean(response.usage.prompt for response in counted) if counted else rule_of_thumb
    completion = fmean(response.usage.completion for response in counted) if counted else _ANSWER_TOKENS
    cached = fmean(response.usage.cached for response in counted) if counted else 0.0
    usage = Usage(round(calls * prompt), round(calls * completion), round(calls * cached))
    prices: Prices | None = prices_of(backend.spec) if calls else Prices(prompt=0.0, completion=0.0)
    return StageEstimate(
        calls,
        len(distinct),
        usage.prompt,
        usage.completion,
        None if prices is None else cost_usd(usage, prices),
        len(counted),
    )


def _distinct(turns: Sequence[Turn]) -> list[LMMResponse]:
    return list({turn.key: turn.response for turn in turns}.values())


def _second_calls(transcripts: Sequence[Transcript], samples: int) -> int:
    """Stage-2 calls still to be made: of the first answers that are known, the distinct ones that lack a choice;
    for the rest, in the same proportion, or one each where nothing is known."""
    known = [transcript for transcript in transcripts if transcript.stage1]
    lacking = {
        transcript.stage1.response.text
        for transcript in known
        if transcript.stage1
        and transcript.stage1.response.outcome is Outcome.ANSWERED
        and transcript.failure == "missing"
    }
    chosen = {transcript.stage2.key for transcript in known if transcript.stage2}
    share = (len(lacking) + len(chosen)) / len(known) if known else 1.0
    return len(lacking) + round(share * (samples - len(known)))


def _sequential_calls(transcripts: Sequence[Transcript], samples: int) -> tuple[int, int, int]:
    """Stage-1 and stage-2 calls still to be made by a method that describes what its first answer does not name, and
    second looks, at most: of the images whose first answer is known, those that lack more; of the rest, in the same
    proportion, or all."""
    known = [one for one in transcripts if one.turns]
    unnamed = [one for one in known if any(turn.member > 0 for turn in one.further)]
    undescribed = sum(one.stage1 is None for one in unnamed)
    # whatever an image still lacks, a second look may follow
    missing = [one for one in unnamed if one.failure == "missing"]
    lacking = {one.stage1.response.text for one in missing if one.stage1 and one.stage2 is None}
    rest = samples - len(known)
    left = round(rest * len(unnamed) / len(known) if known else rest)
    return rest + undescribed + left, len(lacking) + undescribed + left, len(missing) + left


def _first_prompt_tokens(config: RunConfig) -> int:
    """Of one call, on the mean of the prompt sets."""
    return round(fmean(_prompt_tokens(config, one) for one in (config.prompts, *config.further_prompts.values())))


def _prompt_tokens(config: RunConfig, prompts: PromptSet) -> int:
    return _IMAGE_TOKENS + sum(map(len, config.stage1_words(prompts))) // _CHARACTERS_PER_TOKEN


def _second_prompt_tokens(config: RunConfig) -> int:
    k = getattr(config.opened_method, "k", 0)
    listed = _typical_list(config, k) if 0 < 2 * k < len(config.dataset.classes) else None
    by_index = config.asked[1].spec.choice_by_index
    return _tokens(
        config.prompts.stage2_messages(ChoiceTask(_TYPICAL_ANSWER, config.dataset.classes, by_index, listed))
    )


def _look_prompt_tokens(config: RunConfig) -> int:
    listed = _typical_list(
        config, min(getattr(config.opened_method, "look_classes", 0) + 1, len(config.dataset.classes))
    )
    task = ChoiceTask("", config.dataset.classes, config.asked[1].spec.choice_by_index, listed)
    return _IMAGE_TOKENS + _tokens(config.prompts.relook_messages(Image("", b""), task))


def _typical_list(config: RunConfig, count: int) -> tuple[int, ...]:
    """Names from the whole list stand for those of a shortlist, which hang on the answer."""
    return tuple(place * len(config.dataset.classes) // count for place in range(count))


def _tokens(messages: Sequence[Message]) -> int:
    texts = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
    return sum(map(len, texts)) // _CHARACTERS_PER_TOKEN


def fit_budget(config: RunConfig, budget_usd: float, store: Store, is_batch: bool = False) -> RunConfig:
    """The run with the settings of tlac-cascade under which no image costs more, whatever it is asked: with a second
    look, else without, else with fewer candidates, two at least; and with what each step costs.

    By rule of thumb, with one call for each step, and the same for all images. Raises UsageError for another method,
    one that sets these itself, a model without a known price, and a budget that is too small.
    """
    name, _, given = config.method.partition(":")
    if name != "tlac-cascade" or {part.partition("=")[0].strip() for part in given.split(",")} & {"k", "relook"}:
        raise UsageError(
            f"--budget-per-image chooses k and relook of tlac-cascade, and not those of {config.method}: name that "
            "method without them, or leave the budget out"
        )
    config = with_spread_hints(config, store)
    most: int = method_options(load_plugin("tlac.methods", name))["k"]
    with_look = [(True, most)] if config.prompts.spec.relook else []
    for look, k in (*with_look, *((False, fewer) for fewer in range(most, 1, -1))):
        method = with_option(with_option(config.method, "relook", "true" if look else "false"), "k", k)
        fitted = replace(config, method=method)
        steps = _step_costs(fitted, is_batch)
        if sum(steps.values()) <= budget_usd:
            return replace(fitted, budget_per_image={"budget": budget_usd, **steps})
    raise UsageError(
        f"--budget-per-image {budget_usd:g}: one image costs up to {describe_steps(steps)} with the least that "
        f"{name} asks: raise it, or ask once, with --method slac"
    )


def describe_steps(steps: Mapping[str, float]) -> str:
    """What an image costs at most, and each step, in words."""
    listed = ", ".join(f"{step} {dollars(usd)}" for step, usd in steps.items())
    return f"about {dollars(sum(steps.values()))} ({listed}; by rule of thumb)"


def _step_costs(config: RunConfig, is_batch: bool) -> dict[str, float]:
    """USD of each call about an image, those of all that may be made."""
    tokens: dict[str, tuple[int, int]] = {"name": (0, _prompt_tokens(config, config.prompts))}
    for name, prompts in config.further_prompts.items():
        # an image is not described in the words that have named it
        if config.stage1_words(prompts) != config.stage1_words(config.prompts):
            step = "second sample" if name == second_sample_of(config.opened_method) else "describe"
            tokens[step] = 0, _prompt_tokens(config, prompts)
    tokens["choose"] = 1, _second_prompt_tokens(config)
    if looks_again(config.opened_method):
        tokens["look"] = 1, _look_prompt_tokens(config)
    return {step: _call_cost(config.asked[stage], prompt, is_batch) for step, (stage, prompt) in tokens.items()}


def _call_cost(backend: Backend, prompt_tokens: int, is_batch: bool) -> float:
    if (prices := prices_of(backend.spec)) is None:
        raise UsageError(
            f"--budget-per-image: no price is known for {backend.spec.model}: state `prices` in {backend.source}"
        )
    saved = batch_discount(backend) if is_batch else 0.0
    return cost_usd(Usage(prompt_tokens, _ANSWER_TOKENS), prices) * (1 - saved)


def _time_s(
    config: RunConfig, first: StageEstimate, second: StageEstimate, turns: Sequence[Turn], concurrency: int
) -> float:
    latencies = [response.latency_s for response in _distinct(turns) if response.latency_s]
    latency_s = fmean(latencies) if latencies else _LATENCY_S
    calls = first.calls + second.calls
    by_latency = calls * latency_s / concurrency
    a_minute = config.asked[0].spec.limits.requests_per_minute
    return max(by_latency, 60.0 * calls / a_minute if a_minute else 0.0)


def reprice(folder: Path, store: Store) -> dict[str, Any]:
    """Price the answers of the run in `folder`, each once, by their stored usage, as `--json` prints it.

    `then_usd` and `now_usd` are None where a price was or is not known; `then_table` and `now_table` name the price
    tables: the version of litellm, which carries one.

    Raises InputError for a folder that is no run, MissingAnswersError for answers that are not in the store.
    """
    record = read_record(folder)
    keys = {key for asked in read_asked(folder / PREDICTIONS) for key in asked.keys}
    entries = [entry for entry in map(store.get_entry, sorted(keys)) if entry is not None]
    if len(entries) < len(keys):
        raise MissingAnswersError(
            f"{len(keys) - len(entries)} of {len(keys)} answers of {record.run} are not in the store {store.path}; "
            "name the run's own store with --store"
        )
    names = {record.backend, record.stage2_backend, *record.ensemble}
    own = {spec.model: spec for name in sorted(names) if (spec := _spec_of(name)) is not None}
    prices = {model: _prices_of(model, own) for model in sorted({entry.request["model"] for entry in entries})}
    return {
        "run": record.run,
        "answers": len(entries),
        "then_usd": record.answers_cost_usd,
        "then_table": _table(record.versions.get("litellm")),
        "now_usd": _total_usd(entries, prices),
        "now_table": _table(version("litellm")),
    }


def _spec_of(name: str) -> BackendSpec | None:
    """The backend's file of today, if there still is one that can be read."""
    try:
        # the name comes from a run folder, which may not have anything fetched
        return load_backend(name, is_offline=True).spec
    except UsageError:
        return None


def _prices_of(model: str, own: dict[str, BackendSpec]) -> Prices | None:
    # a backend file may state prices, and says which models are no paid service
    return prices_of(own.get(model) or BackendSpec(adapter="litellm", model=model))


def _total_usd(entries: list[StoredAnswer], prices: dict[str, Prices | None]) -> float | None:
    total = 0.0
    for entry in entries:
        known = prices[entry.request["model"]]
        if known is None:
            return None
        total += cost_usd(entry.response.usage, known)
    return total


def _table(litellm_version: str | None) -> str:
    return f"litellm {litellm_version}" if litellm_version else "unknown"
