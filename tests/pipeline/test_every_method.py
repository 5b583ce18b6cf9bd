"""Every method of the catalogue for classifiers, and every way round a teacher, from a recipe."""

import json
import math
from dataclasses import replace

import pytest

from tutelage.config import build_job, read_recipe
from tutelage.losses import FAMILIES
from tutelage.pipeline import run_job

KINDS = ("labels", "logit", "feature", "relational", "teacher_free")
NAMES = [name for kind in KINDS for name in FAMILIES[kind]]
STAGES = ["stage1", "stage2", "stage3"]
ALL = {"student_layers": STAGES}
LAST = {"student_layer": "stage3"}
VECTOR = {"student_layer": "pool"}
SETTINGS = {
    "er_kd": {"inner": {"loss": "dkd"}},
    "logit_standardisation": {"inner": {"loss": "kd", "temperature": 2}},
    "mlkd": {"temperatures": [2, 4]},
    "crd_memory": VECTOR | {"negatives": 64},
    "ofa": {"student_layers": STAGES[:2]},
    "auxiliary_heads": {"student_layers": STAGES[:2]},
    "fitnets": LAST,
    "cwd": LAST,
    "factor_transfer": LAST,
    **dict.fromkeys(
        ("activation_boundaries", "attention_transfer", "fsp", "nst", "review_kd", "vid"), ALL
    ),
    **dict.fromkeys(
        (
            "correlation_congruence",
            "crd",
            "pkt",
            "rkd_angle",
            "rkd_distance",
            "similarity_preserving",
            "srd",
            "vkd",
        ),
        VECTOR,
    ),
}
WAYS = {
    "generations": {"assistants": [{"model": "resnet", "settings": {"width": 4}}] * 2},
    "assistant of another kind": {"assistants": [{"model": "cnn", "settings": {"width": 4}}]},
    "two teachers": {
        "co_teachers": [{"model": "cnn", "weight": 2.0, "training": {"train": {"epochs": 1}}}]
    },
    "two momenta": {"optimizer": {"kind": "dot", "lr": 0.05}},
    "no data": {"transfer": {"num_images": 128, "steps": 2, "batch_size": 64}},
}


def run(path, objective, **changes):
    """One epoch on the digits, teacher and student of one width."""
    network = {"model": "resnet", "settings": {"width": 4}}
    recipe = {
        "data": {"kind": "digits"},
        "teacher": network | {"training": {"train": {"epochs": 1}}},
        "student": network,
        "objective": objective,
        "train": {"epochs": 1},
        "seeds": [0],
        "measure": None,
        "cache": None,
        "output": str(path / "run"),
    }
    file = path / "recipe.yaml"
    file.write_text(json.dumps(recipe | changes))  # JSON is YAML
    return run_job(replace(build_job(read_recipe(str(file), [])), has_report=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_trains_a_student(name, tmp_path):
    term = {"loss": name, "weight": 0.1} | SETTINGS.get(name, {})
    finished = run(tmp_path, {"task_weight": 1.0, "terms": [term]})
    (distilled,) = [arm for arm in finished.arms if arm.arm == "distilled"]
    told = distilled.progress.curve[-1].train_parts
    assert [part for part in told if part.startswith(name)]
    assert all(math.isfinite(value) for value in told.values())
    assert finished.record.verdicts


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_way_round_a_teacher_ends_in_a_verdict(way, tmp_path):
    objective = {"task_weight": 0.1, "terms": [{"loss": "kd", "weight": 0.9}]}
    assert run(tmp_path, objective, **WAYS[way]).record.verdicts
