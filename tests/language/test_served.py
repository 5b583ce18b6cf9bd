"""A teacher that is asked over HTTP: a small server on this machine stands for the endpoint."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml

from tutelage.config import build_job, read_recipe
from tutelage.data.corpus import BlockSource
from tutelage.data.loading import BatchBuilder
from tutelage.errors import ConfigError, ModelError
from tutelage.losses.divergences import log_soften, soften
from tutelage.models import served
from tutelage.models.causal import make_causal
from tutelage.models.served import Endpoint, ServedModel
from tutelage.models.strangers import without_own_code
from tutelage.pipeline import run_job
from tutelage.tasks import LanguageModeling
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.store import shard_metadata

IDS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))


class Server:
    """Answers as vLLM does, or as it is told to.

    Attributes:
        asked: Bodies of the requests, in order.
        trouble: Called with the number of a request; gives status and headers, or None.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.trouble: Callable[[int], tuple[int, dict[str, str]] | None] = lambda number: None
        self.spoil: Callable[[dict], object] = lambda answer: answer
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.asked)
            self.asked.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            trouble = self.trouble(number)
            content = b"busy" if trouble else json.dumps(self.spoil(self._tell(body))).encode()
        status, headers = trouble or (200, {})
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _tell(self, body: dict) -> dict:
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([body["prompt"]])).logits[0, :, :20]
        best = log_soften(logits).topk(body["logprobs"], dim=-1)
        told = [
            {f"token_id:{n}": v for n, v in zip(numbers, values, strict=True)}
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"choices": [{"logprobs": {"top_logprobs": [None, *told]}}]}


@pytest.fixture
def server(teacher_path) -> Iterator[Server]:
    made = Server(make_causal(str(teacher_path)).eval())
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """What would be waited is written down instead."""
    waited: list[float] = []
    monkeypatch.setattr(served.time, "sleep", waited.append)
    return waited


def ask(server: Server, **settings: object) -> ServedModel:
    return ServedModel(Endpoint(**({"url": server.url, "name": "big", "top": 5} | settings)), 20)


def test_the_best_tokens_are_those_of_the_network_that_is_served(server):
    found = ask(server).sparse_logits(IDS)
    with torch.no_grad():
        wanted = log_soften(server.model(input_ids=IDS).logits[..., :20]).flatten(end_dim=1)
    torch.testing.assert_close(found.values[:, :5], wanted.topk(5).values)
    assert torch.equal(found.indices[:, :5], wanted.topk(5).indices)
    rest = 1 - wanted.topk(5).values.exp().sum(dim=1)
    torch.testing.assert_close(found.rest.exp(), rest)
    dense = ask(server)(input_ids=IDS)
    assert dense.shape == (3, 7, 20)
    torch.testing.assert_close(soften(dense).sum(dim=-1), torch.ones(3, 7), atol=0.02, rtol=0)


def test_a_text_is_asked_for_once_and_by_its_numbers(server):
    model = ask(server)
    model.sparse_logits(IDS)
    model.sparse_logits(IDS.flip(0))
    assert len(server.asked) == 3
    assert sorted(body["prompt"] for body in server.asked) == sorted(IDS.tolist())
    assert server.asked[0]["logprobs"] == 5
    assert server.asked[0]["model"] == "big"


def test_nothing_is_sent_while_a_finished_run_is_opened(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    model = ask(server, key_variable="SECRET")
    told = "would send texts and the value of SECRET there. Add --allow-code"
    with without_own_code(tmp_path / "recipe.yaml"), pytest.raises(ConfigError, match=told):
        model(IDS)
    assert server.asked == []


def test_refusals_that_pass_are_waited_for_as_long_as_the_endpoint_says(server, no_waiting):
    answers = {0: (429, {"Retry-After": "7"}), 1: (503, {}), 2: (500, {})}
    server.trouble = answers.get
    ask(server, concurrency=1).sparse_logits(IDS[:1])
    assert no_waiting == [7.0, 1.0, 2.0]
    assert len(server.asked) == 4


def test_an_endpoint_that_stays_silent_is_one_line(server):
    server.trouble = lambda number: (503, {})
    with pytest.raises(ModelError, match=r"gave no answer \(HTTP 503: busy\).*resumes there"):
        ask(server, retries=2).sparse_logits(IDS[:1])
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_refusals_that_do_not_pass_are_not_repeated(server, status):
    server.trouble = lambda number: (status, {})
    with pytest.raises(ModelError, match=f"HTTP {status}: busy"):
        ask(server).sparse_logits(IDS[:1])
    assert len(server.asked) == 1


def test_nobody_at_home_is_one_line():
    nobody = ServedModel(Endpoint("http://127.0.0.1:9/v1", "big", retries=1, timeout_s=2), 20)
    with pytest.raises(ModelError, match="gave no answer"):
        nobody.sparse_logits(IDS[:1])


def telling(rows: list) -> dict:
    return {"choices": [{"logprobs": {"top_logprobs": rows}}]}


def rows_of(answer: dict) -> list:
    return answer["choices"][0]["logprobs"]["top_logprobs"]


SPOILT = {
    "words instead of numbers": lambda answer: telling([None, *[{"the": -1.0}] * 7]),
    "no log-probabilities": lambda answer: {"choices": [{"logprobs": None}]},
    "nothing": lambda answer: {},
    "too short": lambda answer: telling(rows_of(answer)[:3]),
    "another vocabulary": lambda answer: telling([None, *[{"token_id:99": -1.0}] * 7]),
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_answer_of_another_kind_is_one_line(server, name):
    server.spoil = SPOILT[name]
    with pytest.raises(ModelError, match=r"does not tell log-probabilities.*vLLM"):
        ask(server).sparse_logits(IDS[:1])


def test_the_key_comes_from_the_environment_and_is_never_told(server, monkeypatch):
    monkeypatch.setenv("BIG_KEY", "secret")
    model = ask(server, key_variable="BIG_KEY")
    model.sparse_logits(IDS[:1])
    assert server.keys == ["Bearer secret"]
    assert "secret" not in repr(model)
    monkeypatch.delenv("BIG_KEY")
    with pytest.raises(ConfigError, match="BIG_KEY is not set"):
        ask(server, key_variable="BIG_KEY")


def test_requests_keep_their_distance(server, no_waiting, monkeypatch):
    monkeypatch.setattr(served.time, "monotonic", lambda: 100.0)
    ask(server, requests_per_minute=30, concurrency=1).sparse_logits(IDS)
    assert no_waiting == [0.0, 2.0, 4.0]


def test_what_it_costs_is_told():
    assert Endpoint("http://x", "big", price_per_million=0.5).cost(3_000_000) == 1.5
    assert Endpoint("http://x", "big").cost(3_000_000) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"url": "file:///etc/passwd"}, "url must begin with http"), ({"top": 0}, "top and concurr")],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Endpoint(**({"url": "http://x", "name": "big"} | settings))


@pytest.fixture
def served_recipe(write_recipe, server, teacher_path):
    recipe = yaml.safe_load(write_recipe().read_text())
    settings = {"url": server.url, "top": 5, "price_per_million": 2.0}
    return write_recipe(
        teacher={"model": "served:big", "settings": settings},
        data=recipe["data"] | {"tokenizer": str(teacher_path), "train_tokens": 800},
        cache={"codec": "topk:4"},
        baseline=False,
    )


def test_a_served_teacher_becomes_a_cached_one(served_recipe, server):
    job = build_job(read_recipe(served_recipe))
    assert any("reads 1,760 tokens once, about 0.00 at 2.0 a million" in n for n in job.notes)
    assert any("most likely tokens of each position" in note for note in job.notes)
    record = run_job(job).record
    # Training, validation and test text, each block once, though several stages ask.
    assert len({tuple(body["prompt"]) for body in server.asked}) <= 110
    assert record.cache.codec == "topk:4"
    assert record.arms[0].last.values["agreement"] > 0.5
    asked = len(server.asked)
    again = run_job(build_job(read_recipe(served_recipe))).record
    assert again.cache == record.cache
    # The cache is there: only the evaluation and the check before the run ask again.
    texts = {tuple(body["prompt"]) for body in server.asked[asked:]}
    assert len(texts) <= 70


def test_an_interrupted_build_goes_on_where_it_stopped(server, tmp_path):
    tokens = torch.randint(0, 20, (8 * 20 + 1,), generator=torch.Generator().manual_seed(0))
    text = BatchBuilder(BlockSource(tokens, 8), num_classes=20)

    def build() -> None:
        teacher = ModuleTeacher(ask(server), LanguageModeling(20, block_size=8), chunk=2)
        codec, device = make_codec("topk:4"), torch.device("cpu")
        build_cache(tmp_path, teacher, text, codec, device=device, shard_bytes=600)

    server.trouble = lambda number: (401, {}) if number >= 13 else None
    with pytest.raises(ModelError, match=r"HTTP 401.*resumes there"):
        build()
    shards = sorted(tmp_path.glob("shard-*.safetensors"))
    assert shards
    done = max(int(shard_metadata(path)["stop"]) for path in shards)
    inputs, _ = text.source.fetch(torch.arange(done))
    known = {tuple(row) for row in inputs["input_ids"].tolist()}
    assert known <= {tuple(body["prompt"]) for body in server.asked}
    server.asked.clear()
    server.trouble = lambda number: None
    build()
    assert (tmp_path / "manifest.json").is_file()
    assert not known & {tuple(body["prompt"]) for body in server.asked}
