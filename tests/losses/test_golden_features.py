"""Losses on features against released implementations (tests/golden), one table row a case."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.losses import (
    CWD,
    FSP,
    NST,
    PKT,
    SRD,
    VID,
    CRDMemory,
    SimilarityPreserving,
)
from tutelage.losses.contrastive import noise_contrast
from tutelage.losses.review import pyramid_distance
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs

FOLDER = Path(__file__).parents[1] / "golden"
CASES = json.loads((FOLDER / "features.json").read_text())
with np.load(FOLDER / "features.npz", allow_pickle=False) as file:
    ARRAYS = {name: torch.from_numpy(values) for name, values in file.items()}
BATCH = 8


def array(name: str) -> Tensor:
    return ARRAYS[f"params/{name}"]


def outputs(case: str, role: str) -> Outputs:
    """Features under their role in the case: `student`, `student_bottom`, ..."""
    inputs = CASES[case]["inputs"]
    names = {key: name for key, name in inputs.items() if key.startswith(role)}
    features = {key: ARRAYS[name] for key, name in names.items() if "logits" not in key}
    return Outputs(torch.zeros(BATCH, 3, dtype=torch.float64), features)


def value(loss: Loss, student: Outputs, case: str) -> Tensor:
    ids = array("crd/idx") if "crd" in case else torch.arange(BATCH)
    batch = Batch(torch.zeros(BATCH, 1), torch.arange(BATCH), ids, ids)
    return loss(student, outputs(case, "teacher"), batch)


def made(loss: Loss, case: str) -> Loss:
    loss.setup(DryRun(outputs(case, "student"), outputs(case, "teacher"), num_samples=24))
    return loss.double()


def plain(loss: Loss) -> Callable[[str], Loss]:
    return lambda case: made(loss, case)


@torch.no_grad()
def vid(case: str) -> Loss:
    loss = made(VID("student", "teacher"), case)
    for number, layer in enumerate(loss.adapters[0].layers):
        layer.weight.copy_(array(f"vid/w{number}"))
    start = math.log(math.expm1(5.0 - 1e-5))
    loss.spreads[0].fill_(start) if "init" in case else loss.spreads[0].copy_(
        array("vid/log_scale")
    )
    return loss


@torch.no_grad()
def srd(case: str) -> Loss:
    loss = made(SRD("student", "teacher"), case)
    loss.projector.weight.copy_(array("srd/embed_weight"))
    loss.projector.bias.copy_(array("srd/embed_bias"))
    return loss


def same(case: str) -> tuple[float, float]:
    """What theirs is multiplied by and what is added to give ours: here they are the same."""
    return 1.0, 0.0


def times_batch(case: str) -> tuple[float, float]:
    """Theirs: mean over all pairs. Ours: summed over a sample's neighbours, mean over samples."""
    return BATCH, 0.0


def log_term(case: str) -> tuple[float, float]:
    """Theirs: twice the logarithm of a sum over samples, and a KL term."""
    whole, part = CASES[case]["loss"], CASES[case]["components"]["log_term"]
    return 0.5, part - math.log(BATCH) - 0.5 * whole


@dataclass(frozen=True)
class Row:
    case: str
    make: Callable[[str], Loss]
    ours: Callable[[str], tuple[float, float]] = same

    def __str__(self) -> str:
        return self.case


PAIR = ("student", "teacher")
STEP = (("student_bottom", "student_top"), ("teacher_bottom", "teacher_top"))
ROWS = [
    Row("sp_16_32_f64", plain(SimilarityPreserving(*PAIR))),
    Row("sp_emb_f64", plain(SimilarityPreserving(*PAIR))),
    Row("vid_init_f64", vid),
    Row("vid_random_f64", vid),
    Row("pkt_official_f64", plain(PKT(*PAIR)), times_batch),
    Row("pkt_repdistiller_f64", plain(PKT(*PAIR)), times_batch),
    Row("nst_poly2_f64", plain(NST(*PAIR))),
    Row("nst_poly2_pool_f64", plain(NST(*PAIR))),
    Row("fsp_same_size_f64", plain(FSP(*STEP))),
    Row("fsp_pool_f64", plain(FSP(*STEP))),
    Row("srd_imagenet_f64", srd, log_term),
    Row("cwd_official_T1_f64", plain(CWD(*PAIR, temperature=1))),
    Row("cwd_official_T4_f64", plain(CWD(*PAIR, temperature=4))),
    Row("cwd_mmrazor_tau1_f64", plain(CWD(*PAIR, temperature=1))),
    Row("cwd_mmrazor_tau4_f64", plain(CWD(*PAIR, temperature=4))),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_value_and_gradients_are_those_of_the_released_code(row):
    student = outputs(row.case, "student")
    roles = {role: feature.clone().requires_grad_() for role, feature in student.features.items()}
    found = value(row.make(row.case), Outputs(student.logits, roles), row.case)
    factor, added = row.ours(row.case)
    assert float(found.detach()) == pytest.approx(
        factor * CASES[row.case]["loss"] + added, rel=1e-11
    )
    found.backward()
    for role, feature in roles.items():
        wanted = factor * ARRAYS[f"gradient/{row.case}/{role}"]
        assert (feature.grad - wanted).norm() < 1e-10 * wanted.norm()


def test_variances_of_vid_get_the_gradient_of_the_released_code():
    loss = vid("vid_random_f64")
    value(loss, outputs("vid_random_f64", "student"), "vid_random_f64").backward()
    wanted = ARRAYS["gradient/vid_random_f64/log_scale"]
    assert (loss.spreads[0].grad - wanted).norm() < 1e-11 * wanted.norm()


@pytest.mark.parametrize("case", ["reviewkd_hcl_4x4_f64", "reviewkd_hcl_8x8_f64"])
def test_the_pyramid_of_review_kd_is_that_of_the_released_code(case):
    student = outputs(case, "student").features["student"].clone().requires_grad_()
    found = pyramid_distance(student, outputs(case, "teacher").features["teacher"])
    found.backward()
    assert float(found.detach()) == pytest.approx(CASES[case]["loss"], rel=1e-11)
    wanted = ARRAYS[f"gradient/{case}/student"]
    assert (student.grad - wanted).norm() < 1e-11 * wanted.norm()


@torch.no_grad()
def crd() -> CRDMemory:
    case = "crd_call1_f64"
    loss = made(CRDMemory(*PAIR, width=16, negatives=10), case)
    for whose in ("student", "teacher"):
        linear = getattr(loss.embeddings, whose).linear
        linear.weight.copy_(array(f"crd/embed_{whose[0]}_weight"))
        linear.bias.copy_(array(f"crd/embed_{whose[0]}_bias"))
    loss.memory[0], loss.memory[1] = array("crd/memory_v1"), array("crd/memory_v2")
    loss.temperature = float(torch.tensor(0.07))  # theirs holds it in float32
    return loss


def test_two_steps_of_crd_with_a_memory_are_those_of_the_released_code():
    # Theirs draws negatives for each row: so the parts of ours are called with theirs. And theirs
    # adds 1e-7 under its fractions: as if there were a little more noise, and a constant.
    noise = 10 / 24 + 1e-7
    loss = crd()
    ids, drawn = array("crd/idx"), array("crd/contrast_idx")
    for call in ("crd_call1_f64", "crd_call2_f64"):
        student = outputs(call, "student").features["student"].clone().requires_grad_()
        both = loss.embeddings(student, outputs(call, "teacher").features["teacher"])
        found = torch.zeros((), dtype=torch.float64)
        for number, embedding in enumerate(both):
            memory = loss.memory[1 - number][drawn]
            scores = (memory @ embedding[:, :, None]).squeeze(-1) / loss.temperature
            scores = scores - loss._scale(number, scores[:, 0].detach(), scores[:, 1:].detach())
            found = found + noise_contrast(scores[:, 0], scores[:, 1:], num_samples=10 / noise)
            found = found + 10 * math.log(noise / (10 / 24))
        loss._remember(both, ids, torch.zeros_like(ids))
        assert float(found.detach()) == pytest.approx(CASES[call]["loss"], rel=1e-9)
        found.backward()
        wanted = ARRAYS[f"gradient/{call}/student"]
        assert (student.grad - wanted).norm() < 1e-9 * wanted.norm()
    parts = CASES["crd_call1_f64"]["components"]
    assert loss.scale.exp().tolist() == pytest.approx([parts["Z_v1"], parts["Z_v2"]], rel=1e-9)


def test_crd_with_a_memory_draws_as_many_as_it_says_and_leaves_out_its_own_class():
    # Every drawn sample known to be of the row's class: only the true pair is left.
    loss = crd()
    loss.labels.fill_(5)
    case = "crd_call1_f64"
    student, teacher = outputs(case, "student"), outputs(case, "teacher")
    ids = array("crd/idx")
    batch = Batch(torch.zeros(BATCH, 1), torch.full((BATCH,), 5), ids, ids)
    torch.manual_seed(0)
    found = loss(student, teacher, batch).detach()
    embeddings = loss.embeddings(student.features["student"], teacher.features["teacher"])
    wanted = 0.0
    fresh = crd()
    for number, embedding in enumerate(embeddings):
        scores = (embedding * fresh.memory[1 - number][ids]).sum(dim=1) / loss.temperature
        density = (scores - loss.scale[number]).exp()
        wanted = wanted - (density / (density + 10 / 24)).log().mean()
    assert float(found) == pytest.approx(float(wanted.detach()), rel=1e-9)


def test_every_case_that_was_taken_is_used():
    others = {"tinybert_layers_f64", "distilbert_cos_only_f64"}  # test_transformer_losses.py
    others |= {"reviewkd_hcl_4x4_f64", "reviewkd_hcl_8x8_f64", "crd_call1_f64", "crd_call2_f64"}
    assert {row.case for row in ROWS} | others == set(CASES)
