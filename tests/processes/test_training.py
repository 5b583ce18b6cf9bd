import numpy as np
import pytest
import torch

from tests.processes.cases import (
    arm_of,
    live_teacher,
    objectives,
    reader,
    summary,
    train,
    train_all,
    train_until,
)
from tutelage.engine import OptimizerSettings, fit
from tutelage.losses import LOSSES
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec

# Two processes add gradients in another order than one: float32 rounds otherwise.
RTOL, ATOL = 1e-4, 1e-5
CASES = [
    ("kd", {}),
    ("dist", {}),
    ("fitnets", {}),
    ("relational", {}),
    ("contrastive", {}),
    ("srd", {}),
    ("past_self", {"epochs": 3}),
    ("kd", {"accumulate": 3, "epochs": 3, "clip_norm": 0.1, "ema": 0.7}),
    ("kd", {"optimizer": OptimizerSettings("dot", lr=0.02)}),
    ("fitnets", {"optimizer": OptimizerSettings("adamw", lr=0.01)}),
    ("kd", {"kind": "idle"}),
    ("kd", {"kind": "leaves_out"}),
    ("kd", {"kind": "experts"}),
    ("labels", {"kind": "gaps"}),
    ("labels", {"kind": "gaps", "accumulate": 3}),
]


def assert_close(first, second):
    (weights, points, steps), (others, other_points, other_steps) = first, second
    assert steps == other_steps
    for key, value in weights.items():
        np.testing.assert_allclose(value, others[key], rtol=RTOL, atol=ATOL, err_msg=key)
    np.testing.assert_allclose(points, other_points, rtol=RTOL, atol=ATOL)


def same(first, second):
    return first[1:] == second[1:] and all(
        np.array_equal(value, second[0][key]) for key, value in first[0].items()
    )


@pytest.fixture(scope="module")
def by_two(together, tmp_path_factory):
    """What two processes make of all cases."""
    return together(train_all, str(tmp_path_factory.mktemp("two")), CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{c}" for n, c in CASES])
def test_two_processes_train_the_student_of_one(by_two, tmp_path, number):
    name, changes = CASES[number]
    assert_close(train(tmp_path, name, **changes), by_two[0][number])
    assert same(by_two[0][number], by_two[1][number])


def draws(folder, name, kind):
    """What random numbers begin from at each step: in a loss of the whole batch, and in dropout."""
    network, arm = arm_of(folder, name, kind=kind)
    in_loss, in_dropout = [], []
    whole = next(term.loss for term in arm.objective.terms if term.loss.whole_batch)
    whole.register_forward_pre_hook(lambda *_: in_loss.append(torch.initial_seed()))
    dropout = next(part for part in network.modules() if isinstance(part, torch.nn.Dropout))
    dropout.register_forward_pre_hook(
        lambda part, _: in_dropout.append(torch.initial_seed()) if part.training else None
    )
    fitted = fit(network, arm)
    return in_loss, in_dropout, summary(fitted)


def test_processes_draw_the_same_in_a_loss_of_all_rows_and_their_own_in_dropout(together, tmp_path):
    first, second = together(draws, str(tmp_path), "memory", "dropout")
    assert len(set(first[0])) == len(first[0]) == 6  # the row that is left joins the batch before
    assert first[0] == second[0]
    assert len({*first[1], *second[1]}) == 12
    assert same(first[2], second[2])
    assert all(np.isfinite(first[2][1]).flat)


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    live, codec = live_teacher(objectives()["kd"]), make_codec("float32")
    build_cache(folder, live, reader(), codec, device=torch.device("cpu"), shard_bytes=2048)
    return str(folder)


def test_two_processes_learn_from_a_cache_as_one_does(together, tmp_path, cache):
    case = [("kd", {"cache": cache})]
    alone = train(tmp_path / "one", *case[0][:1], **case[0][1])
    assert_close(alone, together(train_all, str(tmp_path / "two"), case)[0][0])


DROPOUT = {"kind": "dropout", "epochs": 3, "ema": 0.9}


def test_two_processes_that_were_stopped_end_as_if_they_had_not_been(together, tmp_path):
    whole = together(train_all, str(tmp_path / "whole"), [("relational", DROPOUT)])[0][0]
    folder = str(tmp_path / "cut" / "0")
    said = together(train_until, folder, "relational", 6, DROPOUT)
    assert said == ["distilled, seed 3: stopped in epoch 2; the state is saved"] * 2
    resumed = together(train_all, str(tmp_path / "cut"), [("relational", DROPOUT)])[0][0]
    assert same(whole, resumed)


@pytest.mark.parametrize("first", [1, 2])
def test_a_training_goes_on_in_another_number_of_processes(together, tmp_path, first):
    changes = {"epochs": 3, "ema": 0.9}
    whole = train(tmp_path / "whole", "contrastive", **changes)
    folder = str(tmp_path / "cut" / "0")
    said = together(train_until, folder, "contrastive", 6, changes, count=first)
    assert "stopped in epoch 2" in said[0]
    case = [("contrastive", changes)]
    assert_close(whole, together(train_all, str(tmp_path / "cut"), case, count=3 - first)[0][0])


def test_processes_that_see_different_folders_say_so(together, tmp_path):
    train_until(str(tmp_path / "0"), "kd", 0, {"epochs": 1})
    said = together(train_in_own_folders, str(tmp_path))
    assert all("processes see different checkpoints (steps 0 and 3)" in text for text in said)
    assert all("Put the run folder where all machines see it" in text for text in said)


def train_in_own_folders(folder):
    from tutelage import distributed
    from tutelage.errors import RunFolderError

    network, arm = arm_of(f"{folder}/{distributed.world().number}", "kd", epochs=1)
    try:
        fit(network, arm)
    except RunFolderError as error:
        return str(error)
    return ""


def test_a_loss_says_whether_it_needs_the_whole_batch():
    from tests.losses.test_contract import SPECIAL, Special

    # A mean over samples can be shared out. Review KD is one but for batch norm in its adapters;
    # past_self remembers samples, so that all processes must see them all.
    for name, kind in LOSSES.items():
        if name in ("logit_standardisation", "review_kd", "simcse"):
            continue
        shared = SPECIAL.get(name, Special()).is_mean and name != "past_self"
        assert kind.whole_batch is not shared, name
