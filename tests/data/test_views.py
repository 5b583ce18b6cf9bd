import random

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from tutelage.data.views import (
    VIEWS,
    CropFlip,
    Elastic,
    Identity,
    SeededViews,
    Shift,
    mix,
    standard_pipeline,
)
from tutelage.errors import ConfigError, ShapeError

SIZE = 9


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def _noise(sample):
    return sample.float() + torch.randn(sample.shape) + random.random()


POLICIES = {
    "identity": (Identity, 1),
    "shift by 1": (lambda: Shift(1), 9),
    "shift by 2": (Shift, 25),
    "crop and flip by 1": (lambda: CropFlip(1), 18),
    "crop and flip": (CropFlip, 162),
    "elastic": (lambda: Elastic(8), 8),
    "seeded": (lambda: SeededViews(_noise, num_views=7, version="noise"), 7),
    "standard": (lambda: standard_pipeline(SIZE, num_views=6), 6),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param][0]()


def _view(policy, images, sample, view):
    ids = torch.tensor([sample])
    return policy.apply(images[ids], ids, torch.tensor([view]))[0]


def _all_views(policy, image):
    ids = torch.arange(policy.num_views)
    return policy.apply(image.expand(len(ids), -1, -1, -1), torch.zeros_like(ids), ids)


@pytest.mark.parametrize(("make", "count"), POLICIES.values(), ids=POLICIES)
def test_a_policy_has_so_many_views(make, count, images):
    policy = make()
    assert policy.num_views == count
    views = _all_views(policy, images[:1])
    assert len(views.flatten(start_dim=1).unique(dim=0)) == count


def test_a_view_depends_on_sample_and_view_number_alone(policy, images):
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(0, len(images), (40,), generator=generator)
    views = torch.randint(0, policy.num_views, (40,), generator=generator)
    together = policy.apply(images[samples], samples, views)
    torch.manual_seed(99)
    random.seed(99)
    for row, sample, view in zip(together, samples.tolist(), views.tolist(), strict=True):
        assert torch.equal(row, _view(policy, images, sample, view))


def test_a_view_is_the_same_from_a_policy_made_anew(policy, images, request):
    again = POLICIES[request.node.callspec.params["policy"]][0]()
    ids = torch.arange(len(images))
    views = ids % policy.num_views
    assert torch.equal(policy.apply(images, ids, views), again.apply(images, ids, views))
    assert policy.fingerprint == again.fingerprint


def test_applying_a_view_leaves_inputs_and_random_numbers_alone(policy, images):
    before, ids = images.clone(), torch.arange(len(images))
    state, python_state = torch.random.get_rng_state(), random.getstate()
    policy.apply(images, ids, ids % policy.num_views)
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == python_state


def test_a_transform_that_fails_gives_the_random_numbers_back(images):
    def fail(sample):
        torch.rand(1), random.random()
        raise RuntimeError("broken")

    state, python_state = torch.random.get_rng_state(), random.getstate()
    ids = torch.zeros(1, dtype=torch.long)
    with pytest.raises(RuntimeError, match="broken"):
        SeededViews(fail, 2, version="fails").apply(images[:1], ids, ids)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == python_state


def test_shifts_are_all_the_moves_with_black_edges(images):
    views = _all_views(Shift(2), images[:1])
    padded = F.pad(images[0], (2, 2, 2, 2))
    moves = [(down, right) for down in range(5) for right in range(5)]
    for view, (down, right) in zip(views, moves, strict=True):
        assert torch.equal(view, padded[:, down : down + SIZE, right : right + SIZE])
    assert torch.equal(views[12], images[0])


def test_crops_come_plain_and_flipped(images):
    views = _all_views(CropFlip(4), images[:1])
    assert torch.equal(views[80], images[0])
    assert torch.equal(views[1::2], views[0::2].flip(dims=(-1,)))
    plain = _all_views(Shift(4), images[:1])
    assert torch.equal(views[0::2], plain)


def _elastic(**limits):
    return Elastic(50, **(dict.fromkeys(["degrees", "stretch", "pixels", "bend"], 0.0) | limits))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_elastic_views_without_any_change_are_the_images(dtype, images):
    views = _all_views(_elastic(), images[:1].to(dtype))
    assert views.dtype == dtype
    expected = images[:1].to(dtype).expand_as(views)
    torch.testing.assert_close(views, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("limit", [{"pixels": 2.0}, {"bend": 2.0}])
def test_elastic_views_move_no_place_farther_than_they_may(limit):
    size = 28
    places = torch.meshgrid(2 * [torch.arange(float(size))], indexing="ij")
    image = torch.stack(places)[None]
    moved = (_all_views(_elastic(**limit), image) - image).abs()
    assert 1.8 < moved.max() <= 2.001


def test_elastic_views_turn_about_the_middle():
    size = 28
    image = torch.zeros(1, 1, size, size)
    image[:, :, 13:15, 20] = 1.0  # six and a half right of the middle
    views = _all_views(_elastic(degrees=30.0), image)[:, 0]
    place = torch.arange(size) - 13.5
    down = (views * place[:, None]).sum(dim=(1, 2)) / views.sum(dim=(1, 2))
    right = (views * place).sum(dim=(1, 2)) / views.sum(dim=(1, 2))
    assert torch.allclose((down**2 + right**2).sqrt(), torch.tensor(6.5), atol=0.2)
    degrees = torch.atan2(down, right).rad2deg()
    assert degrees.min() < -25
    assert degrees.max() > 25
    assert degrees.abs().max() <= 31


def test_elastic_views_stretch_along_both_axes():
    size = 28
    image = torch.zeros(1, 1, size, size)
    image[:, :, 9:19, 9:19] = 1.0
    views = _all_views(_elastic(stretch=0.4), image)[:, 0]
    high, wide = views[:, :, 13].sum(dim=1), views[:, 13].sum(dim=1)
    for side in (high, wide):
        assert 10 / 1.4 - 0.2 <= side.min() < 8
        assert 13 < side.max() <= 10 / 0.6 + 0.2
    assert (high - wide).abs().max() > 2


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"degrees": -1.0}, "degrees must be 0 or more, got -1"),
        ({"stretch": 1.0}, r"stretch must be 0 or more and below 1, got 1\.0"),
        ({"bend": float("nan")}, "bend must be 0 or more, got nan"),
    ],
)
def test_elastic_views_out_of_bounds_are_refused(limit, message):
    with pytest.raises(ConfigError, match=message):
        _elastic(**limit)


def test_seeded_views_replay_and_another_seed_draws_others(images):
    first, second = (SeededViews(_noise, 3, seed=seed, version="noise") for seed in (0, 1))
    assert not torch.equal(_view(first, images, 2, 1), _view(second, images, 2, 1))
    assert not torch.equal(_view(first, images, 2, 1), _view(first, images, 2, 2))
    assert first.fingerprint != second.fingerprint


def test_seeded_views_of_alike_samples_differ(images):
    policy = SeededViews(_noise, 3, version="noise")
    same = images[:1].expand(2, -1, -1, -1)
    views = policy.apply(same, torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert not torch.equal(views[0], views[1])


def test_a_torchvision_pipeline_is_told_apart_by_its_settings():
    texts = {
        SeededViews(v2.RandomRotation(degrees), count, seed).fingerprint
        for degrees in (5, 10)
        for count in (2, 3)
        for seed in (0, 1)
    }
    assert len(texts) == 8


def test_a_transform_without_a_telling_name_is_refused():
    with pytest.raises(ConfigError, match="Pass version="):
        SeededViews(lambda sample: sample, num_views=2)


def test_views_of_different_shapes_are_refused(images):
    policy = SeededViews(lambda s: s[:, : 3 + int(torch.rand(()) * 6)], 50, version="ragged")
    ids = torch.zeros(50, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"different shapes .* End it with a resize or crop"):
        policy.apply(images[:1].expand(50, -1, -1, -1), ids, torch.arange(50))


def test_shifting_what_is_no_image_is_refused():
    ids = torch.arange(2)
    with pytest.raises(ShapeError, match=r"needs images .* shape \(2, 7\)"):
        Shift(1).apply(torch.zeros(2, 7), ids, ids)
    with pytest.raises(ShapeError, match="elastic views need images"):
        Elastic(2).apply(torch.zeros(2, 7), ids, ids)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Shift(0), "pixels"),
        (lambda: CropFlip(0), "padding"),
        (lambda: Elastic(0), "num_views"),
        (lambda: SeededViews(_noise, 0, version="n"), "num_views"),
    ],
)
def test_a_policy_without_views_is_refused(make, name):
    with pytest.raises(ConfigError, match=f"{name} must be 1 or more, got 0"):
        make()


def test_every_named_policy_is_tested():
    made = {type(make()).__name__ for make, _ in POLICIES.values()}
    assert {"Identity", "Shift", "CropFlip", "Elastic", "SeededViews"} == made
    assert set(VIEWS) == {"identity", "shift", "crop_flip", "elastic", "standard"}


def test_chosen_views_are_even_and_change_with_epoch_and_seed():
    policy, ids = Shift(1), torch.arange(9000)
    chosen = policy.choose(ids, epoch=3, seed=5)
    counts = torch.bincount(chosen, minlength=9)
    # Binomial with 9000 draws of 1/9: a deviation of 150 is five standard deviations.
    assert (counts - 1000).abs().max() < 150
    for other in (policy.choose(ids, 4, 5), policy.choose(ids, 3, 6)):
        assert float((chosen == other).float().mean()) == pytest.approx(1 / 9, abs=0.02)
    order = torch.randperm(9000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.choose(ids[order], 3, 5), chosen[order])


def test_mix_is_splitmix64():
    # One step of the published generator from state 0, less the sign bit.
    assert int(mix(0)) == 0xE220A8397B1DCDAF & (1 << 63) - 1


def test_mix_of_many_numbers_does_not_collide_and_stays_in_range():
    numbers = torch.cat([torch.arange(-50_000, 50_000), torch.tensor([2**62, -(2**63)])])
    hashed = mix(numbers, 7)
    assert len(hashed.unique()) == len(numbers)
    assert (hashed >= 0).all()
    assert not torch.equal(mix(numbers, 7), mix(numbers, 8))
    assert not torch.equal(mix(numbers[:5], 7), mix(torch.full((5,), 7), numbers[:5]))
