"""A teacher behind an OpenAI-compatible endpoint, called like a network."""

import hashlib
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError
from tutelage.models.strangers import check_requests
from tutelage.types import SparseLogits

PREFIX = "served:"
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 60.0
DEFAULT_TOP = 8
# Of a token that the endpoint does not name, where nothing is left of the probability.
LEAST_REST = 1e-6


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and limits of an endpoint.

    Attributes:
        url: Up to and without `/completions`, such as http://127.0.0.1:8000/v1.
        name: Name of the model there.
        top: Log-probabilities asked for at each token.
        key_variable: Environment variable that holds the key; None sends none.
        requests_per_minute: At most; None asks as fast as answers come.
        concurrency: Requests under way at a time.
        retries: After a refusal that may pass, or no answer; waits double, up to a minute.
        timeout_s: For one answer.
        price_per_million: Price of a million tokens, in any currency, for the estimate.
    """

    url: str
    name: str
    top: int = DEFAULT_TOP
    key_variable: str | None = None
    requests_per_minute: float | int | None = None
    concurrency: int = 4
    retries: int = 6
    timeout_s: float | int = 120.0
    price_per_million: float | int | None = None

    def __post_init__(self) -> None:
        """Refuse invalid settings.

        Raises:
            ConfigError: A setting is out of its range, or the key is missing.
        """
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with http:// or https://, got {self.url!r}.")
        if self.top < 1 or self.concurrency < 1 or self.retries < 0:
            raise ConfigError(
                "top and concurrency must be 1 or more and retries 0 or more, got "
                f"{self.top}, {self.concurrency} and {self.retries}."
            )
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise ConfigError(
                f"key_variable: the environment variable {self.key_variable} is not set. Put the "
                "endpoint's key there."
            )

    def cost(self, num_tokens: int) -> float | None:
        """Price of a number of tokens; None without a price list."""
        if self.price_per_million is None:
            return None
        return num_tokens * self.price_per_million / 1e6


class ServedModel(nn.Module):
    """A causal language model behind an endpoint that returns its top next tokens.

    It has no weights; a cache of its answers is the way to learn from it. Each text is asked for
    once while the process lives. Tokens that the endpoint does not name share what is left.

    Args:
        endpoint: Where to ask.
        vocab_size: Vocabulary size of the tokenizer.
    """

    def __init__(self, endpoint: Endpoint, vocab_size: int) -> None:
        """Send no request yet."""
        super().__init__()
        self.endpoint = endpoint
        self.vocab_size = vocab_size
        self.answers: dict[bytes, tuple[Tensor, Tensor]] = {}
        self.gate = threading.Lock()
        self.next_at = 0.0

    def extra_repr(self) -> str:
        """What the answers depend on, for the fingerprint."""
        return f"{self.endpoint.name}, top={self.endpoint.top}, num_words={self.vocab_size}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ServedModel":
        """Return itself, which has no state to copy."""
        return self

    @torch.no_grad()
    def forward(
        self, input_ids: Int[Tensor, "texts length"], **_: Tensor
    ) -> Float[Tensor, "texts length words"]:
        """Logits of the next token after each token.

        Raises:
            ModelError: The endpoint refuses, or does not answer as it should.
        """
        return self.sparse_logits(input_ids).dense().view(*input_ids.shape, self.vocab_size)

    @torch.no_grad()
    def sparse_logits(self, input_ids: Int[Tensor, "texts length"]) -> SparseLogits:
        """The answers for the next token after each token, text by text.

        Raises:
            ModelError: As in `forward`.
        """
        check_requests(self.endpoint.url, self.endpoint.key_variable)
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            told = list(pool.map(self._answer, input_ids.cpu().tolist()))
        values, indices = torch.cat([v for v, _ in told]), torch.cat([i for _, i in told])
        rest = (1 - values.exp().sum(dim=-1)).clamp(min=LEAST_REST)
        filler = rest.log() - math.log(max(1, self.vocab_size - values.shape[-1]))
        found = SparseLogits(values, indices, filler, self.vocab_size, is_pooled=True)
        return found.to(input_ids.device)

    def _answer(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        key = hashlib.sha256(json.dumps(tokens).encode()).digest()
        if key not in self.answers:
            self.answers[key] = self._ask(tokens)
        return self.answers[key]

    def _ask(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        # The answer tells of each token of a text what could have stood there; one token more is
        # written, of which it tells the same.
        asked = {
            "model": self.endpoint.name,
            "prompt": list(tokens),
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": self.endpoint.top,
            "return_tokens_as_token_ids": True,
        }
        answer = self._post(asked)
        try:
            told = answer["choices"][0]["logprobs"]["top_logprobs"][1 : len(tokens) + 1]
            rows = [_row(one, self.endpoint.top + 1, self.vocab_size) for one in told]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(self._unfit(f"{type(error).__name__}: {error}")) from error
        if len(rows) != len(tokens):
            raise ModelError(self._unfit(f"it tells of {len(rows)} of {len(tokens)} tokens"))
        return torch.stack([v for v, _ in rows]), torch.stack([i for _, i in rows])

    def _unfit(self, what: str) -> str:
        return (
            f"{PREFIX}{self.endpoint.name}: {self.endpoint.url} does not tell log-probabilities of "
            f"a text's own tokens by number ({what}). It must take echo, logprobs and "
            "return_tokens_as_token_ids, as vLLM's completions do, and have the tokenizer of "
            f"{self.vocab_size} words."
        )

    def _post(self, asked: Mapping[str, Any]) -> Any:
        problem = ""
        for attempt in range(self.endpoint.retries + 1):
            self._wait_for_turn()
            try:
                with urllib.request.urlopen(
                    self._request(asked), timeout=self.endpoint.timeout_s
                ) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}: {_told(error)}"
                if error.code not in AGAIN:
                    break
                time.sleep(_pause(attempt, error.headers.get("Retry-After")))
            except (OSError, ValueError) as error:  # no answer, or one that is no JSON
                problem = f"{type(error).__name__}: {error}"
                time.sleep(_pause(attempt, None))
        raise ModelError(
            f"{PREFIX}{self.endpoint.name}: {self.endpoint.url} gave no answer ({problem}). What "
            "was answered before is in the cache; the same command resumes there."
        )

    def _request(self, asked: Mapping[str, Any]) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.endpoint.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.endpoint.key_variable]}"
        url = self.endpoint.url.rstrip("/") + "/completions"
        return urllib.request.Request(url, json.dumps(asked).encode(), headers)

    def _wait_for_turn(self) -> None:
        if self.endpoint.requests_per_minute is None:
            return
        with self.gate:
            now = time.monotonic()
            at = max(now, self.next_at)
            self.next_at = at + 60 / self.endpoint.requests_per_minute
        time.sleep(at - now)


def make_served(  # noqa: PLR0913 - the settings of a recipe, checked by this signature
    name: str,
    vocab_size: int,
    url: str,
    *,
    top: int = DEFAULT_TOP,
    key_variable: str | None = None,
    requests_per_minute: float | int | None = None,
    concurrency: int = 4,
    retries: int = 6,
    timeout_s: float | int = 120.0,
    price_per_million: float | int | None = None,
) -> ServedModel:
    """A model behind an endpoint; see `Endpoint` for the settings.

    Args:
        name: Name of the model there.
        vocab_size: Vocabulary size of the tokenizer; the data says it.
        url: Address of the endpoint.
        top: Log-probabilities at each token.
        key_variable: Environment variable with the key.
        requests_per_minute: At most.
        concurrency: Requests at a time.
        retries: After a refusal that may pass.
        timeout_s: For one answer.
        price_per_million: Price of a million tokens.
    """
    endpoint = Endpoint(
        url=url,
        name=name,
        top=top,
        key_variable=key_variable,
        requests_per_minute=requests_per_minute,
        concurrency=concurrency,
        retries=retries,
        timeout_s=timeout_s,
        price_per_million=price_per_million,
    )
    return ServedModel(endpoint, vocab_size)


def _row(told: Mapping[str, float], width: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and token numbers, padded with the first one as impossible."""
    numbers = [int(name.removeprefix("token_id:")) for name in told]
    if not 0 < len(numbers) <= width or not 0 <= min(numbers) <= max(numbers) < vocab_size:
        raise ValueError(f"{len(numbers)} tokens up to number {max(numbers, default=None)}")
    missing = width - len(numbers)
    values = [*map(float, told.values()), *[-math.inf] * missing]
    return torch.tensor(values), torch.tensor([*numbers, *[numbers[0]] * missing])


def _pause(attempt: int, told: str | None) -> float:
    """Seconds to wait: as the endpoint says, else twice as long each time."""
    try:
        wanted = float(told) if told is not None else 0.5 * 2.0**attempt
    except ValueError:
        wanted = 0.5 * 2.0**attempt
    return min(LONGEST_WAIT_S, max(0.0, wanted))


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(300).decode("utf-8", errors="replace").strip() or str(error.reason)
    except OSError:
        return str(error.reason)
