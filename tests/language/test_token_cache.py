"""Teachers of tokens from a cache: small, unbiased where it says so, and of these tokens alone."""

import pytest
import torch
from tiny_language import make_model

from tutelage.data.corpus import BlockSource
from tutelage.data.loading import BatchBuilder
from tutelage.errors import CacheError, ConfigError
from tutelage.losses import KD
from tutelage.losses.divergences import soften
from tutelage.tasks import LanguageModeling
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers import codecs as codecs_room
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.types import Batch, Outputs, SparseLogits

TASK = LanguageModeling(num_classes=20, block_size=8)
VOCABULARIES = (300, 49_152, 151_936)


@pytest.fixture
def pooled(monkeypatch):
    """The tiny vocabulary counts as a large one."""
    monkeypatch.setattr(codecs_room, "EVEN", 10)


def reader(seed: int = 0) -> BatchBuilder:
    tokens = torch.randint(0, 20, (8 * 11 + 1,), generator=torch.Generator().manual_seed(seed))
    return BatchBuilder(BlockSource(tokens, 8), num_classes=20)


def batch(text: BatchBuilder) -> Batch:
    ids = torch.tensor([7, 0, 10])
    return text[ids, torch.zeros_like(ids)]


def live(chunk: int = 4) -> ModuleTeacher:
    return ModuleTeacher(make_model(24), TASK, chunk=chunk)


def cached(folder, text: BatchBuilder, codec: str, **settings: int) -> CachedTeacher:
    made = make_codec(codec)
    build_cache(folder, live(), text, made, device=torch.device("cpu"), **settings)
    return CachedTeacher(folder, cache_key(live(), text, made))


@pytest.mark.parametrize("shard_bytes", [2**20, 700])
def test_every_token_of_a_block_comes_back_in_its_place(tmp_path, shard_bytes):
    text = reader()
    teacher = cached(tmp_path, text, "float32", shard_bytes=shard_bytes)
    assert (len(teacher.manifest.shards) > 1) == (shard_bytes == 700)
    found, wanted = teacher(batch(text)).logits, live()(batch(text)).logits
    assert found.shape == (24, 20)
    torch.testing.assert_close(found, wanted)


def test_the_best_tokens_are_the_teachers_best(tmp_path, pooled):
    text = reader()
    found = cached(tmp_path, text, "topk:3")(batch(text)).scores
    wanted = live()(batch(text)).logits
    assert isinstance(found, SparseLogits)
    assert found.is_pooled
    assert torch.equal(found.indices, wanted.topk(3).indices)
    chances = soften(wanted)
    torch.testing.assert_close(found.values.exp(), chances.topk(3).values, rtol=2e-3, atol=0)
    rest = 1 - chances.topk(3).values.sum(dim=1)
    torch.testing.assert_close(found.rest.exp(), rest, rtol=3e-3, atol=0)


def test_other_tokens_are_refused(tmp_path):
    cached(tmp_path, reader(), "topk:3")
    with pytest.raises(CacheError, match="made from another data"):
        CachedTeacher(tmp_path, cache_key(live(), reader(seed=1), make_codec("topk:3")))


def test_another_teacher_is_refused(tmp_path):
    cached(tmp_path, reader(), "topk:3")
    other = ModuleTeacher(make_model(24, layers=3), TASK, chunk=4)
    with pytest.raises(CacheError, match="made from another teacher"):
        CachedTeacher(tmp_path, cache_key(other, reader(), make_codec("topk:3")))


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("codec", ["topk:3", "sampled:5"])
def test_class_numbers_survive_their_packing(vocab_size, codec):
    logits = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = 30.0  # the largest number must fit too
    arrays = {n: a.numpy() for n, a in make_codec(codec).encode(logits).items()}
    found = make_codec(codec).decode(arrays, vocab_size).scores
    assert (found.indices[:, 0] == vocab_size - 1).all()
    assert found.indices.max() < vocab_size


@pytest.mark.parametrize(
    ("codec", "vocab_size", "least"),
    [("topk:8", 49_152, 34), ("topk:7", 151_936, 37), ("sampled:16", 49_152, 32)],
)
def test_a_token_takes_40_bytes_or_fewer(codec, vocab_size, least):
    arrays = make_codec(codec).encode(torch.randn(2, vocab_size))
    size = sum(a.element_size() * a.numel() for a in arrays.values()) // 2
    assert size == least


def gradient(student: torch.Tensor, teacher: Outputs) -> torch.Tensor:
    leaf = student.clone().requires_grad_()
    ids = torch.arange(len(leaf))
    given = Batch(torch.zeros(len(leaf), 1), None, ids, ids)
    return torch.autograd.grad(KD(1)(Outputs(leaf), teacher, given), leaf)[0] * len(leaf)


def test_draws_are_right_on_average_and_the_best_are_not():
    generator = torch.Generator().manual_seed(0)
    one = 2 * torch.randn(1, 30, generator=generator)
    student = torch.randn(1, 30, generator=generator)
    wanted = gradient(student, Outputs(one))[0]
    errors = {}
    for name in ("sampled:6", "topk:6"):
        codec = make_codec(name)
        total = torch.zeros(30)
        for turn in range(300):
            # The same distribution with other bytes, so that the random numbers are others.
            arrays = {n: a.numpy() for n, a in codec.encode(one + turn * 1e-3).items()}
            total += gradient(student, codec.decode(arrays, 30))[0]
        errors[name] = float((total / 300 - wanted).norm() / wanted.norm())
    assert errors["sampled:6"] < 0.02
    assert errors["topk:6"] > 0.02


def test_a_class_is_drawn_by_its_share_to_within_one():
    logits = 2 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    codec = make_codec("sampled:10")
    arrays = {n: a.numpy() for n, a in codec.encode(logits).items()}
    drawn = codec.decode(arrays, 30).logits.exp()
    assert ((10 * (drawn - soften(logits))).abs() < 1).all()
    torch.testing.assert_close(drawn.sum(dim=1), torch.ones(50))


def test_the_manifest_says_what_is_lost(tmp_path, pooled):
    text = reader()
    best = cached(tmp_path / "a", text, "topk:3").manifest
    more = cached(tmp_path / "b", text, "topk:12").manifest
    assert best.bytes_per_item == pytest.approx(best.size_bytes / 88)
    assert best.kl_to_live > more.kl_to_live > 0
    assert best.gradient_bias > more.gradient_bias
    assert cached(tmp_path / "c", text, "float32").manifest.gradient_bias is None


@pytest.mark.parametrize("name", ["sampled:1", "topk:0"])
def test_too_few_are_refused(name):
    with pytest.raises(ConfigError, match="or more, got"):
        make_codec(name)
