import numpy as np
import pytest
import torch

from tutelage.data.loading import (
    BatchBuilder,
    all_views,
    in_order,
    iterate,
    num_batches,
    training_requests,
)
from tutelage.data.sources import DatasetSource, TensorSource
from tutelage.data.views import Identity, SeededViews, Shift
from tutelage.errors import ConfigError, DataError
from tutelage.inputs import ArrayInputs, ImageInputs

COUNT = 23


class Pictures:
    """A data set of the usual kind, slow enough for workers to be used."""

    def __len__(self):
        return COUNT

    def __getitem__(self, number):
        rng = np.random.default_rng(number)
        return torch.from_numpy(rng.integers(0, 256, (1, 6, 6), dtype=np.uint8)), number % 4


def _jitter(sample):
    return sample.float() / 255 + torch.randn(sample.shape)


def _ids(requests):
    return torch.cat([ids for ids, _ in requests])


def _plan(**changes):
    chosen = {"batch_size": 5, "seed": 1, "epoch": 0} | changes
    return list(training_requests(COUNT, Shift(1), **chosen))


def test_an_epoch_shows_every_sample_once():
    requests = _plan()
    assert [len(ids) for ids, _ in requests] == [5, 5, 5, 5, 3]
    assert _ids(requests).sort().values.tolist() == list(range(COUNT))
    assert _ids(requests).tolist() != list(range(COUNT))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (23, 11, [11, 12]),
        (641, 10, [10] * 63 + [11]),  # the single row is a block of its own
        (11, 10, [11]),
        (12, 10, [10, 2]),
        (1, 10, [1]),
        (3, 1, [1, 1, 1]),
        (5, 2, [2, 3]),
    ],
)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_a_row_that_is_left_alone_joins_the_batch_before_it(count, batch_size, sizes, with_lengths):
    lengths = torch.arange(count) % 7 if with_lengths else None
    requests = list(
        training_requests(count, Shift(1), batch_size=batch_size, seed=1, epoch=0, lengths=lengths)
    )
    assert [len(ids) for ids, _ in requests] == [len(views) for _, views in requests] == sizes
    assert len(requests) == num_batches(count, batch_size)
    assert _ids(requests).sort().values.tolist() == list(range(count))


def test_order_and_views_are_a_function_of_seed_and_epoch():
    assert all(
        torch.equal(a, b)
        for one, two in zip(_plan(), _plan(), strict=True)
        for a, b in zip(one, two, strict=True)
    )
    for change in ({"seed": 2}, {"epoch": 1}):
        assert _ids(_plan(**change)).tolist() != _ids(_plan()).tolist()


def test_the_next_seed_is_not_the_next_epoch():
    orders = {
        tuple(_ids(_plan(seed=seed, epoch=epoch)).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_batch_size_changes_neither_order_nor_views():
    small, whole = _plan(batch_size=1), _plan(batch_size=COUNT)
    assert torch.equal(_ids(small), _ids(whole))
    assert torch.equal(torch.cat([v for _, v in small]), whole[0][1])


def test_planning_leaves_the_global_random_numbers_alone():
    state = torch.random.get_rng_state()
    _plan()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_evaluation_goes_in_order_and_a_cache_through_every_view():
    assert _ids(in_order(COUNT, batch_size=4)).tolist() == list(range(COUNT))
    assert {int(v) for _, views in in_order(7, batch_size=4, view_id=3) for v in views} == {3}
    pairs = [
        pair
        for ids, views in all_views(2, 5, 3, batch_size=4)
        for pair in zip(ids.tolist(), views.tolist(), strict=True)
    ]
    assert pairs == [(sample, view) for sample in (2, 3, 4) for view in range(3)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_workers_change_nothing():
    policy = SeededViews(_jitter, num_views=4, version="jitter")
    reader = BatchBuilder(
        DatasetSource(Pictures()), policy, inputs=ImageInputs([0.5], [0.2]), num_classes=4
    )
    requests = list(training_requests(COUNT, policy, batch_size=5, seed=1, epoch=0))
    state = torch.random.get_rng_state()
    alone, helped = (list(iterate(reader, iter(requests), workers)) for workers in (0, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.sample_ids, two.sample_ids)
        assert torch.equal(one.view_ids, two.view_ids)
        assert one.labels is not None
        assert torch.equal(one.labels, two.labels)


def test_an_error_in_a_worker_comes_through_with_its_sample():
    class Torn(Pictures):
        is_torn = False

        def __getitem__(self, number):
            if self.is_torn and number == 11:
                raise OSError("bad sector")
            return super().__getitem__(number)

    images = Torn()
    reader = BatchBuilder(DatasetSource(images))
    images.is_torn = True
    with pytest.raises(
        DataError, match=r"Sample 11 of Torn cannot be read: OSError: bad sector"
    ) as caught:
        list(iterate(reader, in_order(COUNT, batch_size=5), workers=1))
    assert "Traceback" not in str(caught.value)


def test_a_batch_carries_what_was_asked_for():
    source = DatasetSource(Pictures())
    reader = BatchBuilder(source, Shift(1), inputs=ImageInputs([0.25], [0.5]))
    ids, views = torch.tensor([3, 9]), torch.tensor([4, 0])
    batch = reader[ids, views]
    raw = source.fetch(ids)[0].float() / 255
    torch.testing.assert_close(batch.inputs[0], (raw[0] - 0.25) / 0.5)
    # View 0 moves the image down and right by one: its black edge is normalised too.
    torch.testing.assert_close(batch.inputs[1, :, 0], torch.full((1, 6), -0.5))
    torch.testing.assert_close(batch.inputs[1, :, 1:, 1:], (raw[1, :, :-1, :-1] - 0.25) / 0.5)
    assert batch.labels is not None
    assert batch.labels.tolist() == [3, 1]
    torch.testing.assert_close(reader.inputs.export_inputs(batch.inputs)[0], raw[0])


def test_floats_and_numbers_come_as_they_are():
    inputs = torch.arange(8.0).view(4, 2)
    reader = BatchBuilder(TensorSource(inputs))
    batch = reader[torch.tensor([2]), torch.tensor([0])]
    assert torch.equal(batch.inputs, inputs[2:3])
    assert batch.labels is None
    assert isinstance(reader.views, Identity)


def test_a_label_out_of_range_names_its_sample():
    labels = torch.tensor([0, 1, 4, 3])
    reader = BatchBuilder(TensorSource(torch.zeros(4, 2), labels), num_classes=4)
    with pytest.raises(DataError, match="Sample 2 has label 4; allowed are 0 to 3"):
        reader[torch.tensor([1, 2]), torch.tensor([0, 0])]


def test_the_fingerprint_tells_data_and_normalisation_apart():
    inputs = torch.arange(8.0).view(2, 1, 2, 2)
    readers = [
        BatchBuilder(TensorSource(inputs)),
        BatchBuilder(TensorSource(inputs + 1)),
        BatchBuilder(TensorSource(inputs), inputs=ImageInputs([0.0], [1.0])),
        BatchBuilder(TensorSource(inputs), inputs=ImageInputs([0.0], [2.0])),
    ]
    assert len({reader.fingerprint for reader in readers}) == 4
    assert readers[0].fingerprint == BatchBuilder(TensorSource(inputs.clone())).fingerprint


def test_texts_of_like_length_come_together_and_each_once():
    lengths = torch.arange(1000) * 37 % 50
    chosen = {"batch_size": 16, "seed": 3, "epoch": 1}
    plain = list(training_requests(1000, Identity(), **chosen))
    alike = list(training_requests(1000, Identity(), lengths=lengths, **chosen))
    assert sorted(torch.cat([ids for ids, _ in alike]).tolist()) == list(range(1000))
    assert [len(ids) for ids, _ in alike] == [16] * 62 + [8]

    def filled_up(requests):
        return sum(int(lengths[ids].max()) * len(ids) for ids, _ in requests)

    assert filled_up(alike) < 1.1 * int(lengths.sum()) < 0.7 * filled_up(plain)
    means = torch.tensor([float(lengths[ids].float().mean()) for ids, _ in alike[:62]])
    assert float(torch.corrcoef(torch.stack([means, torch.arange(62.0)]))[0, 1].abs()) < 0.3
    again = list(training_requests(1000, Identity(), lengths=lengths, **chosen))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alike, again, strict=True))


@pytest.mark.parametrize("shape", [(2,), (2, 100), (2, 5, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_normalisation_is_per_channel_for_any_number_of_further_axes(shape, dtype):
    inputs = torch.ones(4, *shape, dtype=dtype)
    unit = 255 if dtype == torch.uint8 else 1
    reader = BatchBuilder(TensorSource(unit * inputs), inputs=ImageInputs((0.0, 1.0), (1.0, 2.0)))
    got = reader[torch.arange(3), torch.zeros(3, dtype=torch.long)].inputs
    assert got.shape == (3, *shape)
    assert torch.allclose(got[:, 0], torch.ones(()))
    assert torch.allclose(got[:, 1], torch.zeros(()), atol=1e-6)
    assert torch.allclose(reader.inputs.export_inputs(got), torch.ones(()))


@pytest.mark.parametrize("shape", [(3,), (3, 4, 4), (1, 4, 4), ()])
def test_another_number_of_channels_than_mean_and_std_have_is_an_error(shape):
    reader = BatchBuilder(
        TensorSource(torch.ones(4, *shape)), inputs=ImageInputs((0.0, 1.0), (1.0, 1.0))
    )
    with pytest.raises(
        DataError, match="mean and std have 2 values, one a channel, but the inputs"
    ):
        reader[torch.arange(2), torch.zeros(2, dtype=torch.long)]


def test_a_reader_takes_mean_and_std_as_data_do():
    source = TensorSource(torch.ones(4, 2, 5))
    ids = torch.arange(2)
    reader = BatchBuilder(source, mean=(0.0, 1.0), std=(1.0, 2.0))
    own = BatchBuilder(source, inputs=ArrayInputs((0.0, 1.0), (1.0, 2.0)))
    assert reader.fingerprint == own.fingerprint
    assert torch.equal(reader[ids, ids * 0].inputs, own[ids, ids * 0].inputs)
    with pytest.raises(ConfigError, match="mean and std belong together"):
        BatchBuilder(source, mean=(0.0, 1.0))
