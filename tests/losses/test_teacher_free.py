"""Losses without a teacher: what peers and the past teach, by hand and in a training."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tutelage.engine.prepare import prepare
from tutelage.engine.training_module import TrainingModule
from tutelage.errors import ConfigError, ModelError, SignalError
from tutelage.losses import CrossEntropy, MutualLearning, PastSelf
from tutelage.tasks import Classification
from tutelage.types import Batch, Outputs

TASK = Classification(num_classes=3)


def batch(rows=6):
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(rows)
    return Batch(torch.randn(rows, 4, generator=generator), ids % 3, ids, torch.zeros_like(ids))


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def kl(p, q):
    return float((p * (p.log() - q.log())).sum(dim=1).mean())


def test_mutual_learning_is_both_divergences_and_the_peers_task_loss():
    loss, student, given = MutualLearning(), net(), batch()
    assert prepare(student, 1.0 * loss, TASK, given) is student
    loss.eval()
    student.eval()
    mine, peers = student(given.inputs).detach(), loss.peer(given.inputs).detach()
    p, q = mine.softmax(1), peers.softmax(1)
    wanted = kl(q, p) + kl(p, q) + float(F.cross_entropy(peers, given.labels))
    assert float(loss(Outputs(mine), None, given).detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_peer_has_the_students_form_and_other_weights_and_is_trained_with_it():
    objective = 1.0 * CrossEntropy() + 1.0 * MutualLearning()
    student = net()
    prepare(student, objective, TASK, batch())
    trainee = TrainingModule(student, objective, TASK)
    peer = objective.losses["mutual_learning"].peer
    assert [p.shape for p in peer.parameters()] == [p.shape for p in student.parameters()]
    assert not torch.equal(peer[0].weight, student[0].weight)
    trained = set(map(id, trainee.parameters()))
    assert {id(parameter) for parameter in peer.parameters()} <= trained
    trainee(batch(), None).total.backward()
    assert all(parameter.grad is not None for parameter in peer.parameters())


def test_neither_teaches_through_the_other():
    loss, student, given = MutualLearning(), net(), batch()
    prepare(student, 1.0 * loss, TASK, given)
    logits = student(given.inputs).detach().requires_grad_()
    loss(Outputs(logits), None, given).backward()
    peers = loss.peer(given.inputs)
    gradient = (logits.detach().softmax(1) - peers.detach().softmax(1)) / len(given)
    torch.testing.assert_close(logits.grad, gradient)


def test_a_student_that_cannot_be_drawn_anew_has_no_peer():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3))

        def forward(self, inputs):
            return inputs @ self.weight

    with pytest.raises(ModelError, match="no part of Own has reset_parameters"):
        prepare(Own(), 1.0 * MutualLearning(), TASK, batch())


def test_without_preparation_each_says_what_is_missing():
    logits = Outputs(torch.zeros(6, 3))
    with pytest.raises(SignalError, match="no peer yet"):
        MutualLearning()(logits, None, batch())
    with pytest.raises(SignalError, match="no memory yet"):
        PastSelf()(logits, None, batch())


def test_the_first_epoch_has_no_past_and_is_the_task_loss():
    loss, given = PastSelf(), batch()
    loss.progress = 0.5
    prepare(net(), 1.0 * loss, TASK, given, num_samples=6)
    logits = torch.randn(6, 3)
    found = loss(Outputs(logits), None, given)
    torch.testing.assert_close(found, F.cross_entropy(logits, given.labels))


def test_later_the_labels_are_softened_by_what_was_said_before():
    loss, given = PastSelf(share=0.8), batch()
    prepare(net(), 1.0 * loss, TASK, given, num_samples=6)
    past, now = torch.randn(6, 3), torch.randn(6, 3)
    loss(Outputs(past), None, given)
    loss.progress = 0.5
    found = loss(Outputs(now), None, given)
    soft = 0.6 * F.one_hot(given.labels, 3) + 0.4 * past.softmax(1)
    torch.testing.assert_close(found, F.cross_entropy(now, soft))
    torch.testing.assert_close(loss.memory, now.softmax(1))


def test_evaluation_leaves_the_memory_alone_and_a_checkpoint_holds_it():
    loss, given = PastSelf(), batch()
    prepare(net(), 1.0 * loss, TASK, given, num_samples=6)
    loss(Outputs(torch.randn(6, 3)), None, given)
    kept = copy.deepcopy(loss.state_dict())
    loss.eval()(Outputs(torch.randn(6, 3)), None, given)
    assert torch.equal(loss.memory, kept["memory"])
    assert kept["memory"].shape == (6, 3)


def test_memory_needs_to_know_the_number_of_samples():
    with pytest.raises(ConfigError, match="how many training samples"):
        prepare(net(), 1.0 * PastSelf(), TASK, batch())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PastSelf(share=share)
