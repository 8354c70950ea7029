"""Phase 2 in the cluster: a shard of samples becomes a shard of predictions, and counts that sum up.

    answers (store) -> ScoreWorker: transcripts of its shard -> distinct texts -> EncoderActor -> predictions as parquet

Transcripts are made and scored by the code that the local engine runs, from stored answers alone; the driver sees one
row for each shard. `StoreReader` speaks for the store, on the driver's machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from tlac.cache.serialization import StoredEmbedding
from tlac.cache.store import Store
from tlac.config.schemas import EncoderConfig
from tlac.encoders.cached import StoredEncoder
from tlac.engines.ray.job import MOST_DEATHS, SHARD, SerializedError, WorkersEncoder, backends_of, serialize_error
from tlac.engines.ray.session import WORKER_CPUS
from tlac.engines.ray.tables import read_samples, sample_at
from tlac.errors import CallError, InputError, MissingAnswersError, SampleError, StoreError, TlacError
from tlac.evaluation.class_order import restore_choices
from tlac.evaluation.collect import collect_into
from tlac.evaluation.dry_run import count_recalled
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import RunConfig, RunResult, class_finder, plan_questions
from tlac.hashing import embedding_keys, response_key
from tlac.images import identify
from tlac.interfaces import combination_of, sees_image
from tlac.results.predictions import write_shard
from tlac.results.record import ShortlistRecall
from tlac.results.usage import UsageLedger, encode_calls, facts_of
from tlac.runtime import aio
from tlac.runtime.safe_files import naming_failure, replacing
from tlac.scoring.confidence import abstain
from tlac.scoring.metrics import Counts
from tlac.scoring.predictions import describe_twins, find_twins
from tlac.scoring.scorer import Scorer
from tlac.types import (
    BoolArray,
    Encoding,
    Image,
    LMMRequest,
    LMMResponse,
    Outcome,
    Sample,
    Source,
    Stage,
    Transcript,
    Turn,
    Usage,
)

# samples that a worker has in hand: their keys are looked up together
_AT_ONCE = 256
# what has to be counted once in a run: a turn, a text that was cut, an image; by the first 64 bits of its digest
_USAGE = np.dtype(
    [
        *(("key", np.uint64), ("kind", np.uint8), ("is_paid", np.bool_), ("cost_usd", np.float64)),
        *((name, np.int64) for name in ("prompt", "completion", "cached", "position", "label")),
    ]
)
_STAGES: tuple[Stage, ...] = ("stage1", "stage2")
_TEXT, _IMAGE = 2, 3
_KEYS, _ROWS_A_PART = 2**64, 2_000_000
_KEYS_A_QUERY = 250
Twins: TypeAlias = "tuple[int, int, tuple[int, int, int] | None]"
_PARTS = ("predictions", "calls", "usage")
# a byte for each attempt at a shard: Ray starts workers again without end
_TRIED = "tried"


def why_not(config: RunConfig) -> str | None:
    """Why a run is not scored by shards; None where it is."""
    if config.order_trials:
        return "--order-trials asks again"
    if sees_image(config.opened_method):
        return f"{config.method} scores the images too"
    packs = [backend.name for backend in backends_of(config).values() if backend.spec.adapter == "pack"]
    return f"{packs[0]} is a pack" if packs else None


def explain_missing(
    failures: Mapping[str, SerializedError],
    stopped: SerializedError | None,
    lost: str | None,
    key: str,
    paths: Iterable[str],
) -> TlacError:
    """Why there is no answer to the request with that key about the images under these paths.

    `failures` says so by keys and paths; the others have none because asking has `stopped`, or their shard was `lost`.
    """
    if key in failures:
        return failures[key].to_error()
    for path in paths:
        if path in failures:
            return SampleError(
                f"{failures[path].text} (on a worker of the cluster: images have to lie under the same paths there, or "
                "run the same command with --engine local)"
            )
    if stopped is not None:
        return CallError(f"not asked: {stopped.text}")
    return SampleError(f"{lost or 'not asked by the cluster'}: run the same command with --engine local")


class StoreReader:
    """Speaks for the store, for all workers: gives answers, and takes and gives embeddings.

    Answers with an outcome in `retry` that no run of this command has `fetched` count as none; those under keys in
    `paid` count as asked by this run. `explain` says why there is none, as `explain_missing` does.
    """

    def __init__(
        self,
        store: Path,
        retry: Collection[Outcome],
        fetched: Container[str],
        paid: Container[str],
        explain: Callable[[str, Iterable[str]], TlacError],
    ) -> None:
        self._store = Store(store)
        self._retry, self._fetched, self._paid = frozenset(retry), fetched, paid
        self._explain = explain

    def find(self, keys: Sequence[str]) -> list[LMMResponse | None]:
        """The answer under each of these keys that need not be asked for. Raises StoreError."""
        stored: dict[str, LMMResponse] = {}
        distinct = list(dict.fromkeys(keys))
        # of more at a time the store counts all that it has first: among millions that takes seconds
        for start in range(0, len(distinct), _KEYS_A_QUERY):
            stored.update(self._store.responses(distinct[start : start + _KEYS_A_QUERY]))
        return [self._counted(key, stored.get(key)) for key in keys]

    def _counted(self, key: str, stored: LMMResponse | None) -> LMMResponse | None:
        if stored is not None and key in self._paid:
            return msgspec.structs.replace(stored, from_store=False)
        is_known = stored is not None and (stored.outcome not in self._retry or key in self._fetched)
        return stored if is_known else None

    def recall(self, asked: list[tuple[str, list[str]]]) -> list[LMMResponse | SerializedError]:
        """The answer to each request, by its key and its images' paths, or why there is none. Raises StoreError."""
        found = self.find([key for key, _ in asked])
        return [
            serialize_error(self._explain(key, paths)) if response is None else response
            for response, (key, paths) in zip(found, asked, strict=True)
        ]

    def identify(self, path: str) -> str | None:
        """The sha256 of an image that a worker can't read; None where it can't be read here either."""
        try:
            return identify(Path(path), path).sha256
        except InputError:
            return None

    def load_embeddings(self, keys: list[str], encoder: str) -> tuple[Encoding, BoolArray]:
        """See `Store.load_embeddings`."""
        return self._store.load_embeddings(keys, encoder)

    def put_embeddings(self, items: list[StoredEmbedding]) -> None:
        """See `Store.put_embeddings`."""
        self._store.put_embeddings(items)


class _RemoteStore:
    """The embeddings of the driver's store, for a worker."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def load_embeddings(self, keys: Sequence[str], encoder: str) -> tuple[Encoding, BoolArray]:
        found, is_there = _get(self._reader.load_embeddings.remote(list(keys), encoder))
        # what Ray gives may not be written to
        return Encoding(found.vectors.copy(), found.is_truncated.copy()), is_there

    def put_embeddings(self, items: Iterable[StoredEmbedding]) -> None:
        _get(self._reader.put_embeddings.remote(list(items)))


class EncoderActor:
    """Encodes texts for all workers, and keeps their vectors in the store: each text belongs to one such actor, and so
    is encoded once."""

    def __init__(self, config: EncoderConfig, fingerprint: str, reader: Any) -> None:
        self._encoder = StoredEncoder(WorkersEncoder(config, fingerprint), _RemoteStore(reader))

    def encode(self, texts: list[str]) -> Encoding | SerializedError:
        """See `TextEncoder.encode`."""
        try:
            return self._encoder.encode(texts)
        except TlacError as error:
            return serialize_error(error)


class ClusterEncoder:
    """A text encoder whose work the `actors` do: which of them, the text's key says."""

    def __init__(self, fingerprint: str, actors: Sequence[Any]) -> None:
        self.fingerprint = fingerprint
        self._actors = actors

    def encode(self, texts: Sequence[str]) -> Encoding:
        """See `TextEncoder.encode`. Raises TlacError."""
        if not texts:
            return Encoding(np.zeros((0, 0), np.float32), np.zeros(0, np.bool_))
        owners = np.array([int(key[:8], 16) for key in embedding_keys(self.fingerprint, texts)]) % len(self._actors)
        places = [np.flatnonzero(owners == owner) for owner in range(len(self._actors))]
        asked = [
            (rows, actor.encode.remote([texts[row] for row in rows.tolist()]))
            for rows, actor in zip(places, self._actors, strict=True)
            if len(rows)
        ]
        parts: list[tuple[Any, Encoding]] = []
        for rows, wanted in asked:
            part = _get(wanted)
            if isinstance(part, SerializedError):
                raise part.to_error()
            parts.append((rows, part))
        found = Encoding(
            np.empty((len(texts), parts[0][1].vectors.shape[1]), np.float32), np.empty(len(texts), np.bool_)
        )
        for rows, part in parts:
            found.vectors[rows], found.is_truncated[rows] = part.vectors, part.is_truncated
        return found


class _RecallingLMM:
    """An LMM that knows what the store holds; what is asked in one turn of the event loop is looked up together.

    Where only what `is_stored` counts, it raises MissingAnswersError for all else.
    """

    def __init__(self, reader: Any, is_stored: bool = False) -> None:
        self._reader, self._is_stored = reader, is_stored
        self._recalled = aio.Blocks[tuple[str, list[str]], LMMResponse | SerializedError](self._recall)

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The stored response. Raises CallError saying why there is none, StoreError."""
        paths = [str(image.source) for image in request.images if isinstance(image.source, Path)]
        response = await self._recalled.ask((response_key(request), paths))
        if isinstance(response, SerializedError):
            error = response.to_error()
            raise MissingAnswersError(str(error)) if self._is_stored else error
        return response

    async def _recall(self, asked: list[tuple[str, list[str]]]) -> list[LMMResponse | SerializedError]:
        try:
            found: list[LMMResponse | SerializedError] = await self._reader.recall.remote(asked)
        except Exception as error:
            # whatever Ray raises: it is no fault of these samples
            raise _store_error(error) from error
        return found


class ScoreWorker:
    """Scores the samples in the files that a table lists: for each file, writes predictions as parquet, lines of
    calls.jsonl, and what was used, into the folders of `_PARTS`."""

    def __init__(self, config: RunConfig, folder: Path, reader: Any, encoders: Sequence[Any]) -> None:
        self._config, self._folder, self._reader = config, folder, reader
        encoder = ClusterEncoder(config.fingerprint, encoders)
        self._scorer = Scorer(
            config.dataset.classes, encoder, config.rule, config.template, config.aliases, config.asks_by_number
        )
        lmm, stored = _RecallingLMM(reader), _RecallingLMM(reader, is_stored=True)
        self._prompter = plan_questions(config, partial(_bind, lmm), class_finder(config, encoder))
        self._stored_prompter = plan_questions(config, partial(_bind, stored))

    def __call__(self, table: Any) -> dict[str, list[Any]]:
        """What each file comes to, or the error that kept it from being scored."""
        return {"score": [self._score(Path(file)) for file in table[SHARD].to_pylist()]}

    def _score(self, file: Path) -> RunResult | SerializedError:
        try:
            with (self._folder / _TRIED / file.stem).open("ab") as tried:
                if tried.tell() == MOST_DEATHS:
                    raise TlacError(f"a worker died {MOST_DEATHS} times at {file.name}; is its memory too small?")
                tried.write(b".")
            return self._score_shard(file)
        except TlacError as error:
            return serialize_error(error)

    def _score_shard(self, file: Path) -> RunResult:
        config = self._config
        positions, samples, names = read_samples([file])
        transcripts = self._transcripts(samples, names)
        restored = restore_choices(transcripts, config.class_order, self._scorer.index)
        scored = self._scorer.score(restored, combination_of(config.opened_method))
        predictions = abstain(scored.predictions, config.abstain_below, config.calibration)
        places = [self._folder / part / file.stem for part in _PARTS]
        with naming_failure(self._folder, kind=StoreError):
            with replacing(places[0]) as shard:
                write_shard(shard, predictions)
            with replacing(places[1]) as calls:
                calls.writelines(encode_calls(facts_of(transcripts)))
            with replacing(places[2]) as usage:
                np.save(usage, _usage_rows(positions, transcripts, scored.cut_texts))
        recall = aio.run(count_recalled(transcripts, config, self._stored_prompter))
        counts, cut = Counts.of(predictions), len(scored.cut_texts)
        return RunResult(places[:1], counts, cut, scored.truncated_classes, shortlist_recall=recall)

    def _transcripts(self, samples: Sequence[Sample], names: Sequence[str]) -> list[Transcript]:
        transcripts: list[Transcript] = []
        method = self._config.asking_method
        how = (method, _AT_ONCE, None, self._identify, False)
        aio.run(collect_into(transcripts.append, samples, self._prompter, *how))
        return list(map(_under_its_name, transcripts, samples, names))

    async def _identify(self, source: Source, name: str) -> Image:
        if not isinstance(source, Path):
            return identify(source, name)
        try:
            return await asyncio.to_thread(identify, source, name)
        except InputError:
            # the driver may see what this machine does not, and knows who has asked about it
            sha256 = await self._reader.identify.remote(str(source))
            if sha256 is None:
                raise
            return Image(sha256, source)


def _bind(lmm: _RecallingLMM, backend: Any) -> BoundLMM:
    return BoundLMM(backend, lmm)


def _under_its_name(transcript: Transcript, sample: Sample, name: str) -> Transcript:
    """A transcript whose failure calls the image what its dataset does: a worker knows it by its absolute path."""
    path = sample.source_name
    if transcript.failure is None or path == name or not transcript.reason.startswith(path):
        return transcript
    return msgspec.structs.replace(transcript, reason=name + transcript.reason.removeprefix(path))


def _usage_rows(
    positions: Sequence[int], transcripts: Sequence[Transcript], cut_texts: Iterable[str]
) -> NDArray[np.void]:
    """A row for each turn, each distinct text that was cut, and each image, by rising keys."""
    turns = [
        (
            *(int(turn.key[:16], 16), _STAGES.index(turn.stage), not turn.response.from_store),
            math.nan if turn.response.cost_usd is None else turn.response.cost_usd,
            *(turn.response.usage.prompt, turn.response.usage.completion, turn.response.usage.cached, 0, 0),
        )
        for transcript in transcripts
        for turn in transcript.turns
    ]
    keys = [int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) for text in cut_texts]
    texts = [(key, _TEXT, False, 0.0, 0, 0, 0, 0, 0) for key in keys]
    images = [
        (int(one.image_sha256[:16], 16), _IMAGE, False, 0.0, 0, 0, 0, at, -1 if one.label is None else one.label)
        for at, one in zip(positions, transcripts, strict=True)
        if one.image_sha256 is not None
    ]
    return np.sort(np.array(turns + texts + images, _USAGE), order="key")


def sum_usage(folder: Path, part: int, parts: int) -> tuple[UsageLedger, int, Twins]:
    """Sum up the rows in the files of a folder, those of one of so many equal parts of all keys: what answers took, how
    many distinct texts were cut, and what `find_twins` finds, with places in the run for names."""
    found = [np.empty(0, _USAGE)]
    for path in sorted(folder.iterdir()):
        rows = np.load(path, mmap_mode="r")
        starts = np.searchsorted(rows["key"], np.array([at * _KEYS // parts for at in range(parts)], np.uint64))
        found.append(np.array(rows[slice(*np.append(starts, len(rows))[part : part + 2])]))
    rows = np.concatenate(found)
    ledger, summed = UsageLedger(), UsageLedger()
    for key, kind, is_paid, cost_usd, *tokens, _, _ in rows[rows["kind"] < _TEXT].tolist():
        known = None if math.isnan(cost_usd) else cost_usd
        response = LMMResponse(Outcome.ANSWERED, "", usage=Usage(*tokens), cost_usd=known, from_store=not is_paid)
        ledger.add([Turn(_STAGES[kind], f"{key:x}", response)])
    # without the keys
    summed.join(ledger)
    images = np.sort(rows[rows["kind"] == _IMAGE], order="position")
    digests = np.zeros((len(images), 4), np.uint64)
    digests[:, 0] = images["key"]
    extra, several, example = find_twins(images["position"].tolist(), digests.view(np.uint8), images["label"])
    cut = len(np.unique(rows["key"][rows["kind"] == _TEXT]))
    return summed, cut, (extra, several, example and (example[2], example[1], example[2]))


def score_shards(
    score: Callable[[Sequence[Path]], Any], files: Sequence[Path], folder: Path, on_scored: Callable[[int], None]
) -> RunResult:
    """Score files of samples into a folder; the driver holds nothing of a single sample.

    `score` has the files given to `ScoreWorker`s. `on_scored` is told how many samples are done. Raises TlacError where
    a shard can't be scored, and what Ray raises.
    """
    for part in (*_PARTS, _TRIED):
        (folder / part).mkdir(parents=True, exist_ok=True)
    counts: list[Counts] = []
    recalled: list[ShortlistRecall] = []
    truncated_classes = done = 0
    for row in score(files).iter_rows():
        shard: RunResult | SerializedError = row["score"]
        if isinstance(shard, SerializedError):
            raise shard.to_error()
        counts.append(shard.counts)
        done += int(shard.counts.n.sum())
        on_scored(done)
        # few distinct rows are left of many
        if len(counts) > 64:
            counts = [Counts.join(counts)]
        recalled += [shard.shortlist_recall] if shard.shortlist_recall else []
        truncated_classes = max(truncated_classes, shard.truncated_classes)
    ledger, truncated_texts, twins = _sum_all_usage(folder / "usage", files)
    known, inside = sum(one.known for one in recalled), sum(one.inside for one in recalled)
    return RunResult(
        [folder / "predictions" / path.stem for path in files],
        Counts.join(counts),
        truncated_texts,
        truncated_classes,
        (twins,) if twins else (),
        ledger,
        ((folder / "calls" / path.stem).read_bytes() for path in files),
        shortlist_recall=ShortlistRecall(known, inside) if recalled else None,
    )


def _sum_all_usage(folder: Path, files: Sequence[Path]) -> tuple[UsageLedger, int, str | None]:
    import ray

    rows = sum(path.stat().st_size for path in folder.iterdir()) // _USAGE.itemsize
    parts = 1 + rows // _ROWS_A_PART
    task = ray.remote(num_cpus=WORKER_CPUS)(sum_usage)
    ledger, cut, extra, several, examples = UsageLedger(), 0, 0, 0, list[tuple[int, int, int]]()
    for wanted in [task.remote(folder, part, parts) for part in range(parts)]:
        summed, cut_here, (extra_here, several_here, example) = ray.get(wanted)
        ledger.join(summed)
        cut, extra, several = cut + cut_here, extra + extra_here, several + several_here
        examples += [example] if example else []
    if not examples:
        return ledger, cut, describe_twins(extra, several, None)
    place, *pair = min(examples)
    named = [sample_at(files, position) for position in pair]
    return ledger, cut, describe_twins(extra, several, (place, named[0], named[1]))


def _get(wanted: Any) -> Any:
    """What an actor gives. Raises StoreError where it can't: its process has died, or the store is gone."""
    import ray

    try:
        return ray.get(wanted)
    except ray.exceptions.RayError as error:
        raise _store_error(error) from error


def _store_error(error: Exception) -> StoreError:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, StoreError) else StoreError(f"what scoring needs is gone: {type(error).__name__}")
