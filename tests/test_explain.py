import base64
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.errors import ConfigError, RunFolderError, UnknownNameError
from tutelage.explain import TEXTBOOK, Example, explain, from_run
from tutelage.records import (
    Evaluation,
    RunRecord,
    SoftTargetSample,
    TrainingRecord,
    save_record,
)
from tutelage.report.explain_page import explain_page

BOTH = replace(TEXTBOOK, teacher_probabilities=None, teacher_logits=(-9.0, 1.0, 5.0, 14.0))
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def evaluation() -> Evaluation:
    return Evaluation(
        accuracy=0.5,
        nll=1.0,
        ece=0.1,
        agreement=None,
        kl_to_teacher=None,
        per_class_accuracy=[0.5, 0.5],
        calibration=[],
        count=2,
    )


def save_run(run_dir: Path, label: int = 1) -> Path:
    logits = {"teacher": [0.0, 4.0], "baseline": [1.0, 0.0], "distilled": [-1.0, 1.0]}
    teacher = TrainingRecord(
        arm="teacher",
        seed=0,
        curve=[],
        last=evaluation(),
        selected=evaluation(),
        selected_epoch=None,
        steps=0,
        seconds=0.0,
    )
    record = RunRecord(
        name="pets",
        version="0",
        command="tutelage run pets.yaml",
        recipe={},
        class_names=["cat", "dog"],
        splits={"test": 2},
        temperature=4.0,
        teacher=teacher,
        arms=[],
        summaries=[],
        verdicts={},
        samples=[
            SoftTargetSample(sample_id=17, label=label, image_png=PIXEL, logits=logits),
            SoftTargetSample(sample_id=23, label=0, image_png=None, logits=logits),
        ],
    )
    save_record(run_dir / "results.json", record)
    return run_dir


def to_four_digits(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def test_textbook_probabilities_at_one_and_three() -> None:
    numbers = explain(TEXTBOOK, temperatures=(1.0, 3.0)).to_json()
    assert round(numbers["probabilities"][0][3], 4) == 0.8801
    assert to_four_digits(numbers["probabilities"][1]) == [0.0058, 0.0599, 0.3170, 0.6174]


def test_textbook_losses() -> None:
    numbers = explain(TEXTBOOK).to_json()
    assert round(numbers["hard_loss"], 4) == 0.1277
    assert round(numbers["soft_cross_entropy"], 4) == 0.5569
    assert round(numbers["soft_cross_entropy_renormalised"], 4) == 0.5559


def test_textbook_says_that_the_teacher_does_not_sum_to_one() -> None:
    numbers = explain(TEXTBOOK).to_json()
    assert numbers["teacher_given_sum"] == pytest.approx(1.0018, abs=1e-12)
    said = " ".join(numbers["notes"])
    assert "sum to 1.0018" in said
    assert "0.5569 uses them as they stand" in said
    assert "divided by their sum they give 0.5559" in said


def test_losses_agree_with_a_slow_sum_by_hand() -> None:
    numbers = explain(BOTH, at=2.0, task_weight=0.3, weight=0.7).to_json()
    raised = [math.exp(z / 2) for z in BOTH.student_logits]
    teacher = [math.exp(z / 2) for z in BOTH.teacher_logits or ()]
    q = [value / sum(raised) for value in raised]
    p = [value / sum(teacher) for value in teacher]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    crossed = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    assert numbers["kl"] == pytest.approx(kl, rel=1e-12)
    assert numbers["soft_cross_entropy"] == pytest.approx(crossed, rel=1e-12)
    assert numbers["distillation_loss"] == pytest.approx(4 * kl, rel=1e-12)
    assert numbers["total"] == pytest.approx(0.3 * numbers["hard_loss"] + 0.7 * 4 * kl, rel=1e-12)


def test_kl_is_cross_entropy_less_the_teachers_entropy() -> None:
    losses = explain(TEXTBOOK).teacher_losses
    assert losses is not None
    difference = losses.soft_cross_entropy_renormalised - losses.teacher_entropy
    assert losses.kl == pytest.approx(difference, abs=1e-12)
    assert losses.soft_cross_entropy == pytest.approx(
        1.0018 * losses.soft_cross_entropy_renormalised, rel=1e-12
    )


def test_a_teacher_given_by_probabilities_is_the_teacher_given_by_logits() -> None:
    at_three = explain(BOTH, temperatures=(3.0,)).to_json()["teacher_probabilities"][0]
    given = replace(BOTH, teacher_logits=None, teacher_probabilities=tuple(at_three))
    for at in (3.0, 7.0):
        ours, wanted = explain(given, at=at).to_json(), explain(BOTH, at=at).to_json()
        assert ours["kl"] == pytest.approx(wanted["kl"], rel=1e-9)
        assert ours["teacher_probabilities"][0] == pytest.approx(wanted["teacher_probabilities"][0])


def test_a_perfect_student_has_no_distillation_loss() -> None:
    losses = explain(replace(BOTH, teacher_logits=BOTH.student_logits)).teacher_losses
    assert losses is not None
    assert losses.kl == 0
    assert losses.distillation_loss == 0


def test_high_temperature_is_near_uniform_and_low_picks_the_best() -> None:
    even, sharp = explain(TEXTBOOK, temperatures=(1e4, 0.05)).student
    assert even.probabilities == pytest.approx([0.25] * 4, abs=1e-3)
    assert even.entropy == pytest.approx(math.log(4), abs=1e-6)
    assert sharp.probabilities == pytest.approx([0, 0, 0, 1], abs=1e-12)
    assert sharp.entropy == pytest.approx(0, abs=1e-12)


def test_high_temperature_limit_is_half_the_mean_squared_distance_of_centred_logits() -> None:
    losses = explain(BOTH, at=1e4).teacher_losses
    assert losses is not None
    gap = torch.tensor(BOTH.student_logits) - torch.tensor(BOTH.teacher_logits)
    limit = 0.5 * (gap - gap.mean()).square().mean().item()
    assert losses.distillation_loss == pytest.approx(limit, rel=1e-2)


def test_extreme_but_allowed_numbers_stay_finite() -> None:
    example = Example(("a", "b"), (1e6, -1e6), "b", teacher_probabilities=(1.0, 0.0))
    numbers = explain(example, temperatures=(5e-324, 1e300), at=0.01).to_json()
    json.dumps(numbers, allow_nan=False)
    assert numbers["probabilities"] == [[1.0, 0.0], [0.5, 0.5]]
    assert numbers["hard_loss"] == 2e6


def test_what_is_not_known_is_none() -> None:
    numbers = explain(Example(("a", "b"), (1.0, 2.0))).to_json()
    unknown = ("label", "hard_loss", "teacher_probabilities", "soft_cross_entropy", "kl", "total")
    assert [numbers[key] for key in unknown] == [None] * len(unknown)
    assert numbers["steps"] == []


def test_json_keeps_every_digit_and_its_shape() -> None:
    explanation = explain(TEXTBOOK, temperatures=(1.0, 2.5))
    numbers = json.loads(json.dumps(explanation.to_json(), allow_nan=False))
    assert numbers == explanation.to_json()
    assert numbers["classes"] == ["cat", "dog", "donkey", "horse"]
    assert numbers["temperatures"] == [1.0, 2.5]
    for name in ("probabilities", "teacher_probabilities"):
        assert [len(row) for row in numbers[name]] == [4, 4]
        assert [sum(row) for row in numbers[name]] == pytest.approx([1, 1], abs=1e-12)
    assert numbers["ranking"][0] == 3


def test_a_class_of_probability_zero_is_left_out_of_the_sums() -> None:
    example = Example(("a", "b", "c"), (1.0, 2.0, 3.0), "c", teacher_probabilities=(0.0, 0.4, 0.6))
    inserted = [step["inserted"] for step in explain(example, at=3.0).to_json()["steps"]]
    assert "0.4000·1.1353 + 0.6000·0.8020" in inserted
    assert not any("0.0000·" in products for products in inserted)


def test_steps_end_in_the_weighted_total() -> None:
    *_, loss, total = explain(TEXTBOOK, task_weight=0.5, weight=2.0).to_json()["steps"]
    assert loss["inserted"] == "3² · 0.2772"
    assert total["inserted"] == "0.5 · 0.1277 + 2 · 2.4950"
    assert total["value"] == pytest.approx(0.5 * 0.127731603 + 2 * 2.494972263)
    assert total["shown"] == f"{total['value']:.4f}"


def test_small_kl_shows_the_digits_that_matter() -> None:
    numbers = explain(BOTH, at=1000.0).to_json()
    step = next(step for step in numbers["steps"] if step["name"].startswith("KL"))
    crossed, entropy = step["inserted"].split(" - ")
    assert float(crossed) - float(entropy) == pytest.approx(numbers["kl"], rel=1e-2)
    assert float(step["shown"]) == pytest.approx(numbers["kl"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "hors"}, "Unknown label 'hors'. Did you mean 'horse'?"),
        ({"student_logits": (1.0, 2.0, 3.0)}, r"student logits .* got 3 for 4 classes \(cat, dog"),
        ({"student_logits": (1.0,)}, "at least 2 values, got 1"),
        ({"student_logits": (1.0, 2.0, 3.0, math.nan)}, "student logits must be finite .* got nan"),
        ({"student_logits": (1.0, 2.0, 3.0, -math.inf)}, "must be finite .* got -inf"),
        ({"student_logits": (1.0, 2.0, 3.0, 1e7)}, r"at most 1e\+06 in size, got 10000000.0"),
        ({"classes": ("cat", "dog", "cat", "horse")}, "must all differ, got 'cat' more than once"),
        ({"teacher_logits": (1.0, 2.0, 3.0, 4.0)}, "teacher logits or teacher prob.*, not both"),
        ({"teacher_probabilities": (0.5, 0.5)}, "teacher probabilities .* got 2 for 4 classes"),
        ({"teacher_probabilities": (-0.1, 0.1, 0.5, 0.5)}, "from 0 to 1, got -0.1"),
        ({"teacher_probabilities": (0.1, 0.1, 0.1, 0.1)}, r"must sum to 1 .* got a sum of 0\.4"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
    ],
)
def test_examples_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(replace(TEXTBOOK, **changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": (1.0, 0.0)}, "temperature must be above 0 and finite, got 0.0"),
        ({"temperatures": (math.inf,)}, "temperature must be above 0 and finite, got inf"),
        ({"temperatures": ()}, "temperatures must hold at least one value"),
        ({"at": -1.0}, "temperature must be above 0 and finite, got -1.0"),
        ({"at": 1e5}, r"must be from 0.01 to 10000, got 100000"),
        ({"weight": -0.1}, "weight must be 0 or above and finite, got -0.1"),
        ({"task_weight": math.nan}, "task_weight must be 0 or above and finite, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(TEXTBOOK, **settings)


def test_a_runs_sample_brings_its_logits_label_and_temperature(tmp_path: Path) -> None:
    example = from_run(save_run(tmp_path))
    assert example.student_logits == (-1.0, 1.0)
    assert example.teacher_logits == (0.0, 4.0)
    assert (example.label, example.temperature, example.image_png) == ("dog", 4.0, PIXEL)
    assert example.source == "pets, test sample 17, distilled student"
    other = from_run(tmp_path, sample=1, arm="baseline")
    assert (other.student_logits, other.label) == ((1.0, 0.0), "cat")


def test_a_runs_temperature_is_the_losses(tmp_path: Path) -> None:
    assert explain(from_run(save_run(tmp_path))).at == 4.0


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"results.json: no such file. --run takes"):
        from_run(tmp_path / "nothing")


@pytest.mark.parametrize("sample", [-1, 2])
def test_a_sample_that_the_run_did_not_keep_is_refused(tmp_path: Path, sample: int) -> None:
    with pytest.raises(RunFolderError, match=f"no sample {sample}. Samples kept by .*: 0 to 1"):
        from_run(save_run(tmp_path), sample=sample)


def test_an_arm_that_the_run_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'distiled'\. Did you mean 'distilled'"):
        from_run(save_run(tmp_path), arm="distiled")


def test_a_label_beyond_the_class_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"samples.0.label is 9, but there are 2 class names"):
        from_run(save_run(tmp_path, label=9))


def test_page_stands_alone_and_escapes_names() -> None:
    names = ("<b>", "</script>", "c", "d")
    numbers = explain(replace(TEXTBOOK, classes=names, label="<b>")).to_json()
    page = explain_page(numbers, image_png=PIXEL)
    assert "http" not in page
    assert page.count("</script>") == 2
    assert "&lt;b&gt;" in page
    assert f"data:image/png;base64,{PIXEL}" in page


def test_page_shows_only_the_leading_of_many_classes() -> None:
    logits = tuple(float(k % 37) for k in range(200))
    example = Example(tuple(f"class-{k}" for k in range(200)), logits, "class-3")
    page = explain_page(explain(example, temperatures=(2.0,)).to_json())
    assert "192 more classes are counted" in page
    assert ">class-3<" in page
    assert "class-4<" not in page


def test_page_in_a_browser_recomputes_when_the_slider_moves(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "explain.html"
    path.write_text(explain_page(explain(TEXTBOOK).to_json()), encoding="utf-8")
    said: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.extend([request.url] * (request.url != path.as_uri())))
    page.goto(path.as_uri())
    horse = page.locator(".number[data-network=student][data-class='3']")
    start, readings = horse.inner_text(), page.locator("#readings").inner_text()
    move = "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }"
    page.locator("#temperature").evaluate(move, 0)
    at_one, shown = horse.inner_text(), page.locator("#temperature-value").inner_text()
    page.locator("#temperature").evaluate(move, 3)
    even = horse.inner_text()
    page.close()
    assert said == []
    assert (start, at_one, shown) == ("0.6174", "0.8801", "T = 1")
    assert "KL(teacher || student) 0.2772" in readings
    assert float(even) == pytest.approx(0.25, abs=0.002)
