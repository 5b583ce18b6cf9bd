"""What is looked for by name, where the hub cannot be asked."""

import socket
import time

import pytest
from huggingface_hub import constants

from tutelage.data.text import load_text
from tutelage.errors import DataError, ModelError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.models.load import make_model
from tutelage.paths import hub_asked_once


@pytest.fixture
def unreachable(monkeypatch):
    """A hub at which nobody answers; the address, and a clock that shows no waiting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("somebody waits to ask again"))
        yield address


@pytest.mark.parametrize(
    ("load", "kind", "message"),
    [
        (lambda: load_tokenizer("no/body"), ModelError, "no/body: cannot be loaded .* couldn't co"),
        (lambda: load_text("no/body", tokenizer="no/body"), DataError, "no/body: no such file or"),
        (lambda: make_model("hf:no/body", num_classes=2), ModelError, "couldn't connect to"),
        (lambda: make_model("causal:no/body", num_classes=2), ModelError, "couldn't connect to"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_told_at_once(load, kind, message, unreachable, capfd):
    with pytest.raises(kind, match=message):
        load()
    assert "Retry" not in capfd.readouterr().err
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_asked(unreachable, tmp_path):
    with hub_asked_once(tmp_path):
        assert constants.HF_HUB_OFFLINE is False  # a place on this machine asks nobody
    with hub_asked_once("no/body"):
        assert constants.HF_HUB_OFFLINE is True
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
            with hub_asked_once("no/body"):
                assert constants.HF_HUB_OFFLINE is False
