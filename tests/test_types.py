import dataclasses

import pytest
import torch
from jaxtyping import TypeCheckError

from tutelage.types import Batch, Outputs, SparseLogits, describe_inputs, tensor_bytes


@pytest.fixture
def batch():
    ids = torch.arange(3)
    return Batch(torch.zeros(3, 2), ids, ids, ids, torch.tensor([True, True, False]))


@pytest.fixture
def sparse():
    return SparseLogits(
        values=torch.tensor([[3.0, 2.0], [5.0, 1.0]]),
        indices=torch.tensor([[4, 0], [1, 2]]),
        filler=torch.tensor([-1.0, -7.0]),
        num_classes=5,
    )


def test_sparse_logits_are_dense_on_demand(sparse):
    wanted = torch.tensor([[2.0, -1, -1, -1, 3], [-7, 5, 1, -7, -7]])
    assert torch.equal(Outputs(sparse).logits, wanted)
    assert torch.equal(Outputs(wanted).logits, wanted)


def test_making_logits_dense_twice_gives_the_same(sparse):
    assert torch.equal(sparse.dense(), sparse.dense())
    assert sparse.filler.tolist() == [-1, -7]


def test_a_batch_knows_its_rows_and_stays_where_it_is(batch):
    assert len(batch) == 3
    assert batch.to(torch.device("cpu")) is batch


def test_a_batch_moves_with_all_that_a_device_needs(batch):
    moved = batch.to(torch.device("meta"))
    assert {moved.inputs.device.type, moved.labels.device.type, moved.mask.device.type} == {"meta"}
    # Sample and view numbers stay: a cache looks them up on the CPU.
    assert moved.sample_ids is batch.sample_ids
    bare = dataclasses.replace(batch, labels=None, mask=None).to(torch.device("meta"))
    assert (bare.labels, bare.mask) == (None, None)


def test_named_inputs_count_and_move_as_one_tensor_does():
    ids = torch.arange(3)
    inputs = {"input_ids": torch.zeros(3, 5, dtype=torch.long), "attention_mask": torch.ones(3, 5)}
    batch = Batch(inputs, None, ids, ids)
    assert len(batch) == 3
    moved = batch.to(torch.device("meta"))
    assert {value.device.type for value in moved.inputs.values()} == {"meta"}
    assert moved.device.type == "meta"
    assert describe_inputs(inputs) == "input_ids (3, 5), attention_mask (3, 5)"


def test_what_flows_between_rooms_cannot_be_changed(batch, sparse):
    for thing, name in ((batch, "labels"), (sparse, "values"), (Outputs(sparse), "scores")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)


def test_shapes_are_checked_in_tests(batch):
    with pytest.raises(TypeCheckError):
        dataclasses.replace(batch, labels=torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeCheckError):
        Outputs(torch.zeros(3))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_the_bytes_of_a_tensor_are_its_content(dtype):
    tensor = torch.arange(6).view(2, 3).to(dtype)
    assert bytes(tensor_bytes(tensor)) == bytes(tensor_bytes(tensor.clone()))
    assert len(tensor_bytes(tensor)) == tensor.element_size() * 6
    assert bytes(tensor_bytes(tensor.T)) == bytes(tensor_bytes(tensor.T.contiguous()))
    assert bytes(tensor_bytes(tensor.requires_grad_(dtype.is_floating_point)))
    assert bytes(tensor_bytes(torch.tensor(1).to(dtype)))


def test_an_empty_tensor_has_no_bytes():
    assert bytes(tensor_bytes(torch.zeros(0, 3))) == b""


@pytest.mark.parametrize(
    ("rows", "count", "sizes"),
    [(16, 4, [4] * 4), (17, 8, [3, 3, 3, 3, 3, 2]), (17, 16, [2] * 7 + [3]), (4, 4, [1] * 4)],
)
def test_no_part_has_a_single_row_where_others_have_more(rows, count, sizes):
    ids = torch.arange(rows)
    parts = Batch(torch.randn(rows, 2), ids, ids, ids).parts(count)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.sample_ids for part in parts]), ids)
