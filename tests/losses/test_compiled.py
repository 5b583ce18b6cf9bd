"""`torch.compile` takes the losses in one graph and computes what they compute."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the checks of shapes that the tests' import hook weaves in are no graph.
PROGRAM = """
import sys
import torch
from test_contract import TRIALS, numbers, situation

names = set(sys.argv[1:])
assert names <= {trial.name for trial in TRIALS}
for trial in TRIALS:
    if trial.name not in names:
        continue
    student, teacher, labels = (t.float() if t.is_floating_point() else t for t in numbers())
    print(trial, flush=True)
    student.requires_grad_()
    loss = trial.make().float()
    given = situation(loss, student, teacher, labels)
    torch._dynamo.reset()
    found = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(3)
        value = call(given.student, given.teacher, given.batch)
        found.append((value.detach(), *torch.autograd.grad(value, student, retain_graph=True)))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
"""
PLAIN = ("cross_entropy", "kd")
OTHERS = (
    *("label_smoothing", "teacher_free", "logit_mse", "ctkd", "dist", "dkd", "er_kd", "mlkd"),
    *("logit_standardisation", "nkd", "ofa_logit", "ttm", "wsld", "wttm", "adaptive_kl"),
    *("alpha_beta", "jensen_shannon", "reverse_kl", "skew_kl", "skew_reverse_kl", "taid"),
    *("total_variation", "universal_logit_distance", "embedding_mse", "embedding_cosine"),
    *("margin_mse", "similarity_kl"),
)


def compile_all(names: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plainest_losses_are_one_graph():
    compile_all(PLAIN)


@pytest.mark.slow
def test_losses_on_logits_and_embeddings_are_one_graph():
    compile_all(OTHERS)
