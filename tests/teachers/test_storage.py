"""A row's logits have the same bits wherever in a chunk it stands."""

import json
import subprocess
import sys

import pytest

ASK = """
import json, sys, torch, tutelage
from torch import nn
torch.set_num_threads(int(sys.argv[1]))
from tutelage import Batch, Classification, ModuleTeacher
worst = {}
for width, classes in ((5, 7), (30, 10), (17, 3), (64, 10), (333, 7)):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))
    for chunk in (7, 16, 64):
        teacher = ModuleTeacher(net, Classification(classes), chunk=chunk)
        inputs = torch.randn(200, width)
        def ask(rows):
            return teacher(Batch(inputs[rows], None, rows, torch.zeros_like(rows))).logits
        order = torch.randperm(200)
        straight, shuffled = ask(torch.arange(200)), ask(order)
        unequal = int((straight[order] != shuffled).any(dim=1).sum())
        worst[f"{width}-{classes}-{chunk}"] = unequal
print(json.dumps(worst))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_place_in_a_chunk_changes_no_bit(threads):
    """A process of its own, as the library of matrix products reads its setting only once."""
    told = subprocess.run(
        [sys.executable, "-c", ASK, threads], capture_output=True, text=True, check=True
    )
    assert set(json.loads(told.stdout).values()) == {0}, told.stdout
