import pytest
import torch
from torch import nn

from tutelage.errors import DataError, ModelError, ShapeError
from tutelage.tasks import Classification
from tutelage.types import Batch

TASK = Classification(num_classes=3)
CPU = torch.device("cpu")


def batch_of(count=4, labels=True, features=5):
    ids = torch.arange(count)
    inputs = torch.arange(count * features, dtype=torch.float32).view(count, features)
    return Batch(inputs, ids % 3 if labels else None, ids, ids)


class Oracle(nn.Module):
    """Reads the label off the inputs, so it is right everywhere."""

    def forward(self, inputs):
        number = (inputs[:, 0] / inputs.shape[1]).long()
        return 10 * nn.functional.one_hot(number % 3, 3).float()


def test_a_network_is_called_with_the_inputs_alone():
    model = nn.Linear(5, 3)
    assert torch.equal(TASK.run(model, batch_of()).logits, model(batch_of().inputs))


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (nn.Linear(5, 4), ShapeError, r"Linear returned shape \(4, 4\) for 4 samples; \(4, 3\)"),
        (nn.Flatten(0), ShapeError, r"Flatten returned shape \(20,\) .* one logit a class"),
        (nn.Linear(6, 3), ModelError, r"Linear failed on inputs of shape \(4, 5\): RuntimeError"),
        (nn.Identity(), ShapeError, r"returned shape \(4, 5\)"),
    ],
)
def test_a_network_that_does_not_fit_is_one_clear_error(model, kind, message):
    with pytest.raises(kind, match=message):
        TASK.run(model, batch_of())


def test_a_network_that_returns_no_tensor_is_refused():
    class Dict(nn.Module):
        def forward(self, inputs):
            return {"hidden": inputs}

    with pytest.raises(ShapeError, match=r"Dict returned a dict, not a tensor of logits\. Wrap it"):
        TASK.run(Dict(), batch_of())


def test_out_of_memory_is_not_taken_for_a_wrong_network():
    class Full(nn.Module):
        def forward(self, inputs):
            raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        TASK.run(Full(), batch_of())


def test_the_task_loss_is_cross_entropy():
    found = TASK.task_loss()(TASK.run(Oracle(), batch_of()), None, batch_of())
    assert float(found) < 1e-3


def test_predicting_keeps_order_and_counts_the_last_small_batch():
    batches = [batch_of(4), batch_of(2)]
    said = TASK.predict(Oracle(), batches, CPU)
    logits, labels = said.logits, said.labels
    assert labels.tolist() == [0, 1, 2, 0, 0, 1]
    assert said.sample_ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(logits.argmax(dim=1), labels)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


@pytest.mark.parametrize("was_training", [True, False])
def test_predicting_is_in_eval_mode_and_gives_the_mode_back(was_training):
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).train(was_training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (TASK.predict(model, [batch_of()], CPU).logits for _ in range(2))
    assert torch.equal(first, second)
    assert model.training is was_training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_predicting_without_samples_or_labels_is_refused():
    with pytest.raises(DataError, match="Evaluation needs samples"):
        TASK.predict(Oracle(), [], CPU)
    with pytest.raises(DataError, match="Evaluation needs labels"):
        TASK.predict(Oracle(), [batch_of(labels=False)], CPU)


def test_prediction_leaves_every_part_in_its_mode_even_when_it_fails():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)).train()
    model[0].eval()
    TASK.predict(model, [batch_of()], CPU)
    assert [part.training for part in model] == [False, True]
    with pytest.raises(DataError):
        TASK.predict(model, [batch_of(labels=False)], CPU)
    assert [part.training for part in model] == [False, True]
