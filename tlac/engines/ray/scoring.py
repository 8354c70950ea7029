"""Phase 2 in the cluster: a shard of samples becomes a shard of predictions, and counts that sum up.

    answers (store) -> ScoreWorker: transcripts of its shard -> distinct texts -> EncoderActor -> predictions as parquet

Transcripts are made and scored by the code that the local engine runs, from stored answers alone; the driver sees one
row for each shard. `StoreReader` speaks for the store, on the driver's machine.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tlac.cache.serialization import StoredEmbedding
from tlac.cache.store import Store
from tlac.config.registry import open_encoder
from tlac.config.schemas import EncoderConfig
from tlac.encoders.cached import StoredEncoder
from tlac.engines.ray.job import MOST_DEATHS, SHARD, SerializedError, backends_of, serialize_error, without_samples
from tlac.engines.ray.session import WORKER_CPUS
from tlac.engines.ray.tables import read_names, read_samples
from tlac.errors import CallError, ConfigError, InputError, MissingAnswersError, SampleError, StoreError, TlacError
from tlac.evaluation.class_order import restore_choices
from tlac.evaluation.collect import collect_into
from tlac.evaluation.dry_run import count_recalled
from tlac.evaluation.run_config import RunConfig, ScoredShards, class_finder, plan_questions
from tlac.hashing import embedding_keys, response_key
from tlac.images import identify
from tlac.interfaces import TextEncoder
from tlac.methods.base import BoundLMM, combination_of, sees_image
from tlac.results.predictions import write_shard
from tlac.results.record import ShortlistRecall
from tlac.results.usage import UsageLedger, encode_calls, facts_of
from tlac.runtime import aio
from tlac.runtime.safe_files import replacing
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
    Transcript,
    Turn,
    Usage,
)

# samples that a worker has in hand: their keys are looked up together
_AT_ONCE = 256
# rows of usage that are summed up at once
_USAGE_ROWS = 200_000
_KEYS_A_QUERY = 250
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


@dataclass(frozen=True, slots=True)
class Missing:
    """Why requests, by their keys, and images, by their paths, have no answer; why the others have none: asking has
    `stopped`, or their shard was `lost`."""

    failures: Mapping[str, SerializedError]
    stopped: SerializedError | None
    lost: str | None

    def explain(self, key: str, paths: Iterable[str]) -> TlacError:
        """Why there is no answer to the request with that key about the images under these paths."""
        if key in self.failures:
            return self.failures[key].to_error()
        for path in paths:
            if path in self.failures:
                return SampleError(
                    f"{self.failures[path].text} (on a worker of the cluster: images have to lie under the same paths "
                    "there, or run the same command with --engine local)"
                )
        if self.stopped is not None:
            return CallError(f"not asked: {self.stopped.text}")
        return SampleError(f"{self.lost or 'not asked by the cluster'}: run the same command with --engine local")


class ScoringReader:
    """Speaks for the store: gives the answers of a run, and takes and gives embeddings.

    Answers under keys in `paid` count as asked by this run; those with an outcome in `retry` that no run of this
    command has `fetched` are none.
    """

    def __init__(
        self, store: Path, paid: Container[str], fetched: Container[str], retry: Collection[Outcome], missing: Missing
    ) -> None:
        self._store = Store(store)
        self._paid, self._fetched, self._retry = paid, fetched, frozenset(retry)
        self._missing = missing

    def recall(self, asked: list[tuple[str, list[str]]]) -> list[LMMResponse | SerializedError]:
        """The answer to each request, by its key and its images' paths, or why there is none."""
        keys = list(dict.fromkeys(key for key, _ in asked))
        # of more at a time the store counts all that it has first
        parts = (keys[start : start + _KEYS_A_QUERY] for start in range(0, len(keys), _KEYS_A_QUERY))
        stored = {key: one for part in parts for key, one in self._store.responses(part, is_whole=True)}
        return [self._answer(stored.get(key), key, paths) for key, paths in asked]

    def _answer(self, stored: LMMResponse | None, key: str, paths: list[str]) -> LMMResponse | SerializedError:
        if stored is not None and key in self._paid:
            return msgspec.structs.replace(stored, from_store=False)
        if stored is not None and (stored.outcome not in self._retry or key in self._fetched):
            return stored
        return serialize_error(self._missing.explain(key, paths))

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


class _ExpectedEncoder:
    """A text encoder that is opened for the first text that the store lacks, and has to be the driver's."""

    def __init__(self, config: EncoderConfig, fingerprint: str) -> None:
        self._config, self.fingerprint = config, fingerprint
        self._opened: TextEncoder | None = None

    def encode(self, texts: Sequence[str]) -> Encoding:
        if self._opened is None:
            opened = open_encoder(self._config)
            if opened.fingerprint != self.fingerprint:
                raise ConfigError(
                    f"the text encoder {self._config.name} is another one on a worker of the cluster: "
                    "install the same weights and versions there"
                )
            self._opened = opened
        return self._opened.encode(texts)


class EncoderActor:
    """Encodes texts for all workers, and keeps their vectors in the store: each text belongs to one such actor, and so
    is encoded once."""

    def __init__(self, config: EncoderConfig, fingerprint: str, reader: Any) -> None:
        self._encoder = StoredEncoder(_ExpectedEncoder(config, fingerprint), _RemoteStore(reader))

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
        self._sought: list[tuple[tuple[str, list[str]], asyncio.Future[LMMResponse | SerializedError]]] = []
        self._finding: asyncio.Task[None] | None = None

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The stored response. Raises CallError saying why there is none, StoreError."""
        found: asyncio.Future[LMMResponse | SerializedError] = asyncio.get_running_loop().create_future()
        paths = [str(image.source) for image in request.images if isinstance(image.source, Path)]
        self._sought.append(((response_key(request), paths), found))
        if self._finding is None:
            self._finding = asyncio.ensure_future(self._find_sought())
        response = await found
        if isinstance(response, SerializedError):
            error = response.to_error()
            raise MissingAnswersError(str(error)) if self._is_stored else error
        return response

    async def _find_sought(self) -> None:
        await asyncio.sleep(0)
        while self._sought:
            sought, self._sought = self._sought, []
            try:
                responses = await self._reader.recall.remote([asked for asked, _ in sought])
            except Exception as error:  # noqa: BLE001 - whatever Ray raises: it is no fault of these samples
                for _, found in sought:
                    found.set_exception(_store_error(error))
                continue
            for (_, found), response in zip(sought, responses, strict=True):
                found.set_result(response)
        self._finding = None


@dataclass(frozen=True, slots=True)
class ShardScore:
    """What a shard comes to; or the error that kept it from being scored."""

    counts: Counts | None = None
    truncated_classes: int = 0
    shortlist_recall: ShortlistRecall | None = None
    error: SerializedError | None = None


class ScoreWorker:
    """Scores the samples in the files that a table lists: for each file, writes predictions as parquet, lines of
    calls.jsonl, and what was used, into the folders of `_PARTS`."""

    def __init__(self, config: RunConfig, fingerprint: str, folder: Path, reader: Any, encoders: Sequence[Any]) -> None:
        self._config, self._folder, self._reader = config, folder, reader
        encoder = ClusterEncoder(fingerprint, encoders)
        self._scorer = Scorer(config.dataset.classes, encoder, config.rule, config.template, config.aliases)
        lmm, stored = _RecallingLMM(reader), _RecallingLMM(reader, is_stored=True)
        self._prompter = plan_questions(config, partial(_bind, lmm), class_finder(config, encoder))
        self._stored_prompter = plan_questions(config, partial(_bind, stored))

    def __call__(self, table: Any) -> dict[str, list[Any]]:
        """A `ShardScore` for each file."""
        return {"score": [self._score(Path(file)) for file in table[SHARD].to_pylist()]}

    def _score(self, file: Path) -> ShardScore:
        try:
            with (self._folder / _TRIED / file.stem).open("ab") as tried:
                if tried.tell() == MOST_DEATHS:
                    raise TlacError(f"a worker died {MOST_DEATHS} times at {file.name}; is its memory too small?")
                tried.write(b".")
            return self._score_shard(file)
        except TlacError as error:
            return ShardScore(error=serialize_error(error))

    def _score_shard(self, file: Path) -> ShardScore:
        config = self._config
        positions, samples = read_samples([str(file)])
        transcripts = self._transcripts(samples, read_names(file))
        restored = restore_choices(transcripts, config.class_order)
        scored = self._scorer.score(restored, combination_of(config.opened_method))
        predictions = abstain(scored.predictions, config.abstain_below, config.calibration)
        places = [self._folder / part / file.stem for part in _PARTS]
        try:
            with replacing(places[0]) as shard:
                write_shard(shard, predictions)
            with replacing(places[1]) as calls:
                calls.writelines(encode_calls(facts_of(transcripts)))
            with replacing(places[2].with_suffix(".parquet")) as usage:
                _write_usage(usage, positions, transcripts, scored.cut_texts)
        except OSError as error:
            raise StoreError(f"{self._folder}: can't be written: {error.strerror or error}") from error
        recall = aio.run(count_recalled(transcripts, config, self._stored_prompter))
        return ShardScore(Counts.of(predictions), scored.truncated_classes, recall)

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
    failure, path = transcript.failure, sample.source_name
    if failure is None or path == name or not failure.reason.startswith(path):
        return transcript
    failure = msgspec.structs.replace(failure, reason=name + failure.reason.removeprefix(path))
    return msgspec.structs.replace(transcript, failure=failure)


def _write_usage(
    file: Any, positions: Sequence[int], transcripts: Sequence[Transcript], cut_texts: Iterable[str]
) -> None:
    """Write a row for each turn; without a stage, for each distinct text that was cut; and with a position, for each
    image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = [("key", pa.string()), ("stage", pa.string()), ("from_store", pa.bool_()), ("cost_usd", pa.float64())]
    numbers = dict.fromkeys(("prompt", "completion", "cached", "position", "label"), pa.int64())
    schema = pa.schema([*kinds, *numbers.items(), ("sample", pa.string())])
    rows: list[dict[str, Any]] = [
        {
            "key": turn.key,
            "stage": turn.stage,
            "from_store": turn.response.from_store,
            "cost_usd": turn.response.cost_usd,
            "prompt": turn.response.usage.prompt,
            "completion": turn.response.usage.completion,
            "cached": turn.response.usage.cached,
        }
        for transcript in transcripts
        for turn in transcript.turns
    ]
    rows += ({"key": hashlib.sha256(text.encode()).hexdigest()} for text in cut_texts)
    rows += (
        {"key": one.image_sha256, "position": position, "label": one.label, "sample": one.sample}
        for position, one in zip(positions, transcripts, strict=True)
        if one.image_sha256 is not None
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), file)


def sum_usage(table: Any) -> dict[str, list[Any]]:
    """Sum up rows of usage, all those of a key: a `UsageLedger`, how many distinct texts were cut, and what
    `find_twins` finds, by positions in the run."""
    ledger, summed, cut = UsageLedger(), UsageLedger(), set[str]()
    images: list[dict[str, Any]] = []
    for row in table.to_pylist():
        if row["position"] is not None:
            images.append(row)
            continue
        if row["stage"] is None:
            cut.add(row["key"])
            continue
        usage = Usage(row["prompt"], row["completion"], row["cached"])
        response = LMMResponse(
            Outcome.ANSWERED, "", usage=usage, cost_usd=row["cost_usd"], from_store=row["from_store"]
        )
        ledger.add([Turn(row["stage"], row["key"], response)])
    # without the keys
    summed.join(ledger)
    images.sort(key=itemgetter("position"))
    digests = np.frombuffer(bytes.fromhex("".join(row["key"] for row in images)), np.uint8).reshape(-1, 32)
    labels = np.array([-1 if row["label"] is None else row["label"] for row in images], np.int64)
    extra, several, example = find_twins([row["sample"] for row in images], digests, labels)
    if example is not None:
        example = (images[example[0]]["position"], *example[1:])
    return {"ledger": [summed], "cut": [len(cut)], "twins": [(extra, several, example)]}


def score_shards(
    ray: Any, work: tuple[RunConfig, str, Path], files: Sequence[Path], pool: Mapping[str, Any], actors: tuple[Any, Any]
) -> ScoredShards:
    """Score files of samples; the driver holds nothing of a single sample.

    `work` are the config, the fingerprint of the text encoder, and the folder to write to; `actors` the reader of the
    store and the encoders.

    Raises TlacError where a shard can't be scored, and what Ray raises.
    """
    config, fingerprint, folder = work
    for part in (*_PARTS, _TRIED):
        (folder / part).mkdir(parents=True, exist_ok=True)
    listed = ray.data.from_items([{SHARD: str(path)} for path in files], override_num_blocks=len(files))
    arguments = (without_samples(config), fingerprint, folder, *actors)
    options = {"fn_constructor_args": arguments, "batch_format": "pyarrow", "batch_size": None, **pool}
    counts: list[Counts] = []
    recalled: list[ShortlistRecall] = []
    truncated_classes = 0
    for row in listed.map_batches(ScoreWorker, **options).iter_rows():
        score: ShardScore = row["score"]
        if score.error is not None:
            raise score.error.to_error()
        counts += [score.counts] if score.counts else []
        # few distinct rows are left of many
        if len(counts) > 64:
            counts = [Counts.join(counts)]
        recalled += [score.shortlist_recall] if score.shortlist_recall else []
        truncated_classes = max(truncated_classes, score.truncated_classes)
    ledger, truncated_texts, twins = _sum_all_usage(ray, folder / "usage", int(sum(one.n.sum() for one in counts)))
    return ScoredShards(
        [folder / "predictions" / path.stem for path in files],
        [folder / "calls" / path.stem for path in files],
        Counts.join(counts),
        ledger,
        truncated_texts,
        truncated_classes,
        twins,
        ShortlistRecall(sum(one.known for one in recalled), sum(one.inside for one in recalled)) if recalled else None,
    )


def _sum_all_usage(ray: Any, folder: Path, samples: int) -> tuple[UsageLedger, int, str | None]:
    rows = ray.data.read_parquet(str(folder)).repartition(-(-3 * samples // _USAGE_ROWS), keys=["key"])
    ledger, cut, extra, several, examples = UsageLedger(), 0, 0, 0, list[tuple[int, str, str]]()
    for row in rows.map_batches(sum_usage, batch_format="pyarrow", batch_size=None, num_cpus=WORKER_CPUS).iter_rows():
        ledger.join(row["ledger"])
        cut += row["cut"]
        extra, several, example = (extra + row["twins"][0], several + row["twins"][1], row["twins"][2])
        examples += [tuple(example)] if example else []
    return ledger, cut, describe_twins(extra, several, min(examples, default=None))


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
