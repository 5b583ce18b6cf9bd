import math

import pytest
import torch

from tutelage.errors import CacheError, ConfigError
from tutelage.losses.divergences import kl_per_item, soften
from tutelage.teachers.codecs import Codec, make_codec

ITEMS = 50


def logits_of(classes, items=ITEMS):
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.randn(items, classes, generator=generator)


def there_and_back(name, logits):
    """Outputs after a trip through the arrays that lie on disk."""
    codec = make_codec(name)
    arrays = {key: value.numpy() for key, value in codec.encode(logits).items()}
    assert {len(array) for array in arrays.values()} == {len(logits)}
    return codec.decode(arrays, logits.shape[1])


@pytest.mark.parametrize("name", ["float32", "float16", "topk:3"])
def test_a_codec_bears_the_name_that_makes_it(name):
    codec = make_codec(name)
    assert isinstance(codec, Codec)
    assert codec.name == name


def test_float32_loses_nothing():
    logits = logits_of(10)
    logits[0, 3], logits[1, 1] = -torch.inf, 1e30
    assert torch.equal(there_and_back("float32", logits).logits, logits)


def test_float16_keeps_its_stated_error():
    logits = logits_of(10)
    found = there_and_back("float16", logits).logits
    assert found.dtype == torch.float32
    assert float(((found - logits) / logits).abs().max()) < 0.0005
    assert not torch.equal(found, logits)
    assert float(kl_per_item(found, logits).max()) < 1e-5


@pytest.mark.parametrize("name", ["float16", "topk:2"])
def test_a_logit_too_large_for_float16_is_refused(name):
    logits = logits_of(10)
    logits[7, 2] = 70000.0
    with pytest.raises(CacheError, match=r"logit of 70000 does not fit float16 .* codec: float32"):
        make_codec(name).encode(logits)
    logits[7, 2] = -torch.inf
    assert make_codec(name).encode(logits)


@pytest.mark.parametrize("classes", [10, 256, 257, 1000])
def test_topk_keeps_the_best_and_the_mass_of_the_rest(classes):
    k, logits = 4, logits_of(classes)
    found = there_and_back(f"topk:{k}", logits).logits
    exact, kept = soften(logits), soften(found)
    best = logits.topk(k, dim=1).indices
    torch.testing.assert_close(kept.gather(1, best), exact.gather(1, best), rtol=0.015, atol=0)
    tail, wanted = (1 - p.gather(1, best).sum(dim=1) for p in (kept, exact))
    torch.testing.assert_close(tail, wanted, rtol=0.015, atol=1e-6)
    assert torch.equal(found.topk(k, dim=1).indices.sort(dim=1).values, best.sort(dim=1).values)


def test_the_tail_of_topk_is_spread_evenly():
    logits = logits_of(10)
    found = there_and_back("topk:3", logits).logits
    rest = found.sort(dim=1).values[:, :7]
    assert torch.equal(rest, rest[:, :1].expand(-1, 7))
    assert torch.equal(there_and_back("topk:9", logits).logits.argmax(1), logits.argmax(1))


def test_topk_by_hand():
    # Classes 2 and 0 are kept; the other two have mass 0.1 together, so 0.05 each.
    logits = torch.tensor([[0.3, 0.08, 0.6, 0.02]]).log()
    found = soften(there_and_back("topk:2", logits).logits)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.05, 0.6, 0.05]]), rtol=2e-3, atol=0)


def test_the_error_of_topk_is_what_the_tail_hides():
    # What is lost is the unevenness of the tail: its mass times its own divergence from even.
    logits = logits_of(20)
    found = there_and_back("topk:5", logits).logits
    best = logits.topk(5, dim=1).indices
    tail = logits.scatter(1, best, -torch.inf)
    mass = soften(logits).scatter(1, best, 0.0).sum(dim=1)
    even = torch.zeros_like(logits).scatter(1, best, -torch.inf)
    inside = soften(tail)
    gap = torch.where(inside > 0, inside.log() - soften(even).log(), 0.0)
    wanted = mass * (inside * gap).sum(dim=1)
    torch.testing.assert_close(kl_per_item(found, logits), wanted, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(("classes", "width"), [(256, 1), (257, 2), (2**16, 2), (2**16 + 1, 3)])
def test_topk_takes_the_bytes_that_it_must(classes, width):
    arrays = make_codec("topk:3").encode(logits_of(classes, items=1))
    size = sum(array.element_size() * array.numel() for array in arrays.values())
    assert size == 3 * 2 + 3 * width + 2


def test_topk_beside_impossible_classes():
    logits = torch.full((1, 6), -torch.inf)
    logits[0, :2] = torch.tensor([1.0, 2.0])
    found = there_and_back("topk:3", logits)
    assert torch.equal(soften(found.logits)[0, 2:], torch.zeros(4))
    torch.testing.assert_close(soften(found.logits), soften(logits), rtol=1e-3, atol=0)


@pytest.mark.parametrize("k", [10, 11])
def test_topk_of_all_classes_is_refused(k):
    with pytest.raises(ConfigError, match=f"topk:{k} keeps all 10 classes. Use float16"):
        make_codec(f"topk:{k}").encode(logits_of(10))


@pytest.mark.parametrize("name", ["zip", "topk", "topk:", "topk:x", "topk:-1", "topk:1.5", ""])
def test_an_unknown_codec_is_refused(name):
    with pytest.raises(ConfigError, match=r"unknown codec .* Known: float32, float16, topk:K"):
        make_codec(name)


def test_topk_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="topk needs k of 1 or more, got 0"):
        make_codec("topk:0")


def test_a_distribution_stays_one_at_every_temperature():
    found = there_and_back("topk:3", logits_of(10)).logits
    for temperature in (1.0, 4.0, 20.0):
        total = soften(found, temperature).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(ITEMS))
        assert math.isfinite(float(kl_per_item(found, logits_of(10), temperature).mean()))


@pytest.mark.parametrize("draws", [10, 50])
def test_as_many_draws_as_classes_are_refused(draws):
    with pytest.raises(ConfigError, match=rf"sampled:{draws} draws as often as there are classes"):
        make_codec(f"sampled:{draws}").encode(torch.zeros(2, 10))
    assert make_codec("sampled:9").encode(torch.zeros(2, 10))["indices"].shape == (2, 9)
