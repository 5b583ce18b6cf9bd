"""Networks whose channels lie innermost go through a whole run like any other."""

import pytest
import torch
from torch import nn

from tutelage.config import build_job, read_recipe
from tutelage.engine.events import StageDone
from tutelage.pipeline import run_job
from tutelage.teachers.module import state_fingerprint

LAST = torch.channels_last


def lies_last(network: nn.Module) -> list[bool]:
    """Of every convolution that can show it."""
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [w.is_contiguous(memory_format=LAST) for w in weights if w.shape[1] != 1]


@pytest.fixture
def make(tmp_path):
    def make(*overrides):
        cnn = "{model: cnn, settings: {width: 4}, channels_last: true}"
        small = ["teacher.training.train.epochs=1", "train.epochs=1", "seeds=[0, 1]"]
        chosen = [f"output={tmp_path}", f"student={cnn}", "teacher.channels_last=true", *small]
        return build_job(read_recipe("digits", [*chosen, *overrides]))

    return make


def test_a_run_with_channels_innermost_is_kept_and_delivered(make):
    job = make()
    finished = run_job(job)
    assert all(all(lies_last(trained.last)) for trained in finished.arms)
    parity = [row.max_abs_difference for row in finished.record.parity]
    assert parity
    assert max(parity) < 1e-3
    events = []
    again = run_job(make(), events.append)
    done = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert [name for name, was_there in done.items() if not was_there] == ["evaluation"]
    assert again.record.arms == finished.record.arms


def test_only_the_last_bits_change_and_the_fingerprint_tells(make):
    networks = [make(f"student.channels_last={on}").new_student(0) for on in ("true", "false")]
    assert [all(lies_last(network)) for network in networks] == [True, False]
    assert state_fingerprint(networks[0]) != state_fingerprint(networks[1])
    images = torch.rand(3, 1, 8, 8)
    logits = [network.eval()(images) for network in networks]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)
