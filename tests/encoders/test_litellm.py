from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest

from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders.cached import StoredEncoder
from tlac.encoders.litellm import BATCH_SIZE, EndpointEncoder
from tlac.errors import ConfigError, MissingAnswersError, PermanentError, TransientError

KEY = "sk-secret-0123456789"


class Endpoint:
    """An embedding endpoint on loopback: a text's vector is its length and 2, out of order on the wire."""

    def __init__(self):
        self.requests = []
        self.failures = []
        self.zeros = False
        self.surplus = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, self.headers["Authorization"], body))
                status, answer = endpoint.answer(body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body):
        if self.failures:
            status = self.failures.pop(0)
            return status, {"error": {"message": f"no luck with {KEY}", "type": "x", "code": None, "param": None}}
        rows = []
        for index, text in enumerate([*body["input"], *["more"] * self.surplus]):
            vector = np.array([0, 0] if self.zeros else [len(text), 2], dtype="<f4")
            encoded = base64.b64encode(vector.tobytes()).decode()
            is_base64 = body.get("encoding_format") == "base64"
            rows.append({"object": "embedding", "index": index, "embedding": encoded if is_base64 else vector.tolist()})
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return 200, {"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage}


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def event_loop():
    """litellm makes a loop for the thread where there is none, even for a plain call, and never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def encoder(endpoint, waits, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    return EndpointEncoder(config(endpoint.address), sleep=waits.append)


def config(address="http://127.0.0.1:9/v1", **options):
    spec = EncoderSpec(
        adapter="litellm", model="openai/tiny-embedding", api_key_env="MY_KEY", api_base=address, options=options
    )
    return EncoderConfig("mine", "mine.yaml", spec)


def test_offline_it_serves_what_is_stored_and_is_not_asked(encoder, endpoint, store):
    StoredEncoder(encoder, store).encode(["abc"])
    offline = EndpointEncoder(dataclasses.replace(config(endpoint.address), is_offline=True))
    assert len(StoredEncoder(offline, store).encode(["abc"]).vectors) == 1
    with pytest.raises(MissingAnswersError, match="1 text embeddings of mine are not in the store"):
        StoredEncoder(offline, store).encode(["abc", "new"])
    assert len(endpoint.requests) == 1


def test_rows_belong_to_their_texts_and_have_length_one(encoder):
    encoding = encoder.encode(["four", "sevens!", "four"])
    expected = np.array([[4, 2], [7, 2], [4, 2]]) / np.sqrt([[20], [53], [20]])
    np.testing.assert_allclose(encoding.vectors, expected, atol=1e-6)
    assert encoding.vectors.dtype == np.float32
    assert encoding.is_truncated.tolist() == [False, False, False]


def test_texts_go_out_once_each_in_batches_with_the_key(encoder, endpoint):
    texts = [f"text {number}" for number in range(BATCH_SIZE + 1)]
    assert encoder.encode([*texts, *texts]).vectors.shape == (2 * len(texts), 2)
    assert [body["input"] for _, _, body in endpoint.requests] == [texts[:BATCH_SIZE], texts[BATCH_SIZE:]]
    assert {(path, key) for path, key, _ in endpoint.requests} == {("/v1/embeddings", f"Bearer {KEY}")}


def test_an_event_loop_that_has_ended_does_not_matter(encoder):
    asyncio.run(asyncio.sleep(0))
    assert encoder.encode(["four"]).vectors.shape == (1, 2)


def test_no_texts_ask_nothing(encoder, endpoint):
    assert encoder.encode([]).vectors.shape == (0, 0)
    assert endpoint.requests == []


def test_a_request_that_may_succeed_later_is_sent_again(encoder, endpoint, waits):
    endpoint.failures = [503, 429]
    assert encoder.encode(["four"]).vectors.shape == (1, 2)
    assert len(endpoint.requests) == 3
    assert waits == sorted(waits)
    assert len(waits) == 2


def test_an_endpoint_that_stays_away_is_one_line_without_the_key(encoder, endpoint, waits):
    endpoint.failures = [500] * 9
    with pytest.raises(TransientError, match="encoder 'mine': the endpoint did not answer") as caught:
        encoder.encode(["four"])
    assert len(waits) == 3
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_key_is_not_tried_again_and_not_told(encoder, endpoint, waits):
    endpoint.failures = [401]
    with pytest.raises(PermanentError, match=r"refused: .*check MY_KEY") as caught:
        encoder.encode(["four"])
    assert waits == []
    assert KEY not in str(caught.value)


def test_a_server_that_is_not_there_is_a_transient_error(monkeypatch, waits):
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(TransientError, match="the endpoint did not answer"):
        EndpointEncoder(config(), sleep=waits.append).encode(["four"])


def test_vectors_that_dont_fit_the_texts_are_refused(encoder, endpoint):
    endpoint.surplus = 1
    with pytest.raises(PermanentError, match="gave 2 vectors"):
        encoder.encode(["four"])


def test_a_vector_without_direction_is_refused(encoder, endpoint):
    endpoint.zeros = True
    with pytest.raises(PermanentError, match="a vector of zeros"):
        encoder.encode(["four"])


def test_dimensions_are_asked_for_and_are_part_of_the_fingerprint(endpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    long = config(endpoint.address, dimensions=2)
    model = "openai/text-embedding-3-small"
    encoder = EndpointEncoder(dataclasses.replace(long, spec=msgspec.structs.replace(long.spec, model=model)))
    encoder.encode(["four"])
    assert endpoint.requests[0][2]["dimensions"] == 2
    assert encoder.fingerprint == 'litellm:openai/text-embedding-3-small:{"dimensions":2}'


def test_the_fingerprint_leaves_the_address_out():
    assert EndpointEncoder(config()).fingerprint == "litellm:openai/tiny-embedding"


def test_a_missing_key_names_its_variable_before_litellm_is_imported():
    code = (
        "import sys\n"
        "from tlac.errors import ConfigError\n"
        "from tlac.config.registry import open_encoder\n"
        "try:\n"
        "    open_encoder('openai-text-embedding-3-small').encode(['a'])\n"
        "except ConfigError as error:\n"
        "    print(error, error.exit_code, 'litellm' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "set OPENAI_API_KEY, or use --encoder minilm 2 False" in out


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="unknown key 'dimension'"):
        EndpointEncoder(config(dimension=2))
