"""A cache of texts to which others are added, or of which some are changed."""

import pytest
import torch

from tutelage.data.loading import BatchBuilder
from tutelage.data.tokens import TokenSource
from tutelage.models.text_nets import BagOfWords
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers import build as build_module
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.store import discard, verify

CODEC, CPU = make_codec("float32"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(build_module, "SHARD_SAMPLES", 10)


@pytest.fixture(scope="module")
def live():
    torch.manual_seed(0)
    return ModuleTeacher(BagOfWords(3, 50, width=4), Classification(3))


def texts(count, **changes):
    """So many texts of other lengths, some of them changed."""
    ids = [
        [1 + (7 * number + place) % 49 for place in range(2 + number % 5)]
        for number in range(count)
    ]
    for number, tokens in changes.items():
        ids[int(number.removeprefix("text"))] = tokens
    return ids


def reader(ids, labels=None, **settings):
    return BatchBuilder(TokenSource(ids, labels, **settings))


def asked(folder, live, data, monkeypatch):
    """Numbers of the samples that a build asks the teacher about."""
    seen = []
    fetch = data.source.fetch

    def watched(ids):
        seen.extend(ids.tolist())
        return fetch(ids)

    discard(folder)
    with monkeypatch.context() as patch:
        patch.setattr(data.source, "fetch", watched)
        made = build_cache(folder, live, data, CODEC, device=CPU)
    verify(folder, made)
    assert made.key == cache_key(live, data, CODEC)
    ids = torch.arange(len(data))
    batch = data[ids, torch.zeros_like(ids)]
    assert torch.equal(CachedTeacher(folder, made.key)(batch).logits, live(batch).logits)
    return set(seen)


def test_a_cache_of_more_texts_asks_about_the_new_ones_alone(live, tmp_path, monkeypatch):
    assert asked(tmp_path, live, reader(texts(34)), monkeypatch) == set(range(34))
    assert asked(tmp_path, live, reader(texts(34)), monkeypatch) == set()
    assert asked(tmp_path, live, reader(texts(57)), monkeypatch) == set(range(30, 57))


def test_a_cache_of_fewer_texts_keeps_no_files_of_the_others(live, tmp_path, monkeypatch):
    asked(tmp_path, live, reader(texts(34)), monkeypatch)
    assert asked(tmp_path, live, reader(texts(20)), monkeypatch) == set()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"}


def test_a_shard_is_made_again_where_a_text_or_the_teacher_changed(live, tmp_path, monkeypatch):
    asked(tmp_path, live, reader(texts(34)), monkeypatch)
    changed = reader(texts(34, text12=[5, 6]))
    assert asked(tmp_path, live, changed, monkeypatch) == set(range(10, 20))
    moved = reader(texts(34, text25=[4], text26=[9, 8]))  # text 12 is back
    assert asked(tmp_path, live, moved, monkeypatch) == set(range(10, 30))
    padded = reader(texts(34, text25=[4], text26=[9, 8]), pads_left=True)
    assert asked(tmp_path, live, padded, monkeypatch) == set(range(34))
    torch.manual_seed(1)
    other = ModuleTeacher(BagOfWords(3, 50, width=4), Classification(3))
    assert asked(tmp_path, other, padded, monkeypatch) == set(range(34))


def test_labels_are_of_no_account_to_what_a_teacher_said(live, tmp_path, monkeypatch):
    asked(tmp_path, live, reader(texts(20), [0] * 20), monkeypatch)
    assert asked(tmp_path, live, reader(texts(20), [1] * 20), monkeypatch) == set()


def test_the_same_tokens_cut_otherwise_are_other_texts():
    one = TokenSource([[1, 2], [3]]).part_fingerprint(range(2))
    assert one == TokenSource([[9], [1, 2], [3]]).part_fingerprint(range(1, 3))
    assert one != TokenSource([[1], [2, 3]]).part_fingerprint(range(2))
    assert one != TokenSource([[1, 2], [3]], pad_id=7).part_fingerprint(range(2))
    counted = [[True, False], [True]]
    told = TokenSource([[1, 2], [3]], [[0, 0], [0]], counted=counted).part_fingerprint(range(2))
    assert told != one
