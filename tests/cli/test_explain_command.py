import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tutelage.cli.explain import explain_command
from tutelage.errors import ConfigError, RunFolderError
from tutelage.records import (
    Evaluation,
    RunRecord,
    SoftTargetSample,
    TrainingRecord,
    load_record,
    save_record,
)

app = typer.Typer()
app.command("explain")(explain_command)


def run(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def numbers_of(*arguments: str) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return numbers


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    evaluation = Evaluation(0.5, 1.0, 0.1, None, None, [0.5, 0.5], [], 2)
    teacher = TrainingRecord("teacher", 0, [], evaluation, evaluation, None, 0, 0.0)
    logits = {"teacher": [0.0, 4.0], "baseline": [1.0, 0.0], "distilled": [-1.0, 1.0]}
    record = RunRecord(
        name="pets",
        version="0",
        command="",
        recipe={},
        class_names=["cat", "dog"],
        splits={},
        temperature=4.0,
        teacher=teacher,
        arms=[],
        summaries=[],
        verdicts={},
        samples=[
            SoftTargetSample(sample_id=k, label=k, image_png=None, logits=logits) for k in (0, 1)
        ],
    )
    save_record(tmp_path / "results.json", record)
    return tmp_path


def test_without_options_it_prints_an_example_whose_teacher_sums_to_one() -> None:
    output = run()
    for figure in ("-8.0000", "0.9357", "0.5562", "0.2793", "0.2769", "2.4922", "2.2558"):
        assert figure in output
    assert "sum to" not in output
    assert math.fsum(numbers_of()["teacher_at"]) == pytest.approx(1, abs=1e-12)


def test_the_textbook_example_is_there_with_its_footnote() -> None:
    output = run("--example", "textbook")
    assert "values sum to 1.0018, not to 1" in " ".join(output.split())
    for figure in ("0.8801", "0.1277", "0.0058", "0.0599", "0.3170", "0.6174", "0.5569", "1.0018"):
        assert figure in output
    assert "2.2582" in output


def test_terminal_output_fits_eighty_columns() -> None:
    many = ",".join(str(k) for k in range(120))
    names = ",".join(f"a rather long name {k}" for k in range(120))
    wide = run(f"--logits={many}", f"--teacher-logits={many}", "--classes", names)
    assert max(len(line) for line in (run() + wide).splitlines()) <= 80
    assert "others" in wide


def test_json_prints_the_numbers_and_nothing_else() -> None:
    numbers = numbers_of()
    assert numbers["temperatures"] == [1, 2, 3, 5, 10, 20, 100]
    assert [len(row) for row in numbers["probabilities"]] == [4] * 7
    assert round(numbers["soft_cross_entropy"], 4) == 0.5562


def test_every_class_of_ten_stands_with_its_logit_and_in_the_sum() -> None:
    many = ",".join(str(k) for k in range(10))
    output = run(f"--logits={many}", f"--teacher-logits={many}", "--at", "2")
    assert "9.0000" in output
    assert "+ 4 more" not in output
    terms = numbers_of(f"--logits={many}", f"--teacher-logits={many}")["steps"][0]["inserted"]
    assert terms.count("·") == 10


@pytest.mark.parametrize("logits", [("--logits=-5,2,7,9",), ("--logits", "-5, 2, 7, 9")])
def test_negative_logits_are_values(logits: tuple[str, ...]) -> None:
    numbers = numbers_of(*logits)
    assert numbers["student_logits"] == [-5, 2, 7, 9]
    assert numbers["classes"] == ["0", "1", "2", "3"]
    assert numbers["teacher_probabilities"] is None


def test_temperatures_repeat_or_stand_in_a_list() -> None:
    assert numbers_of("--temperature", "1,2.5", "--temperature", "7")["temperatures"] == [1, 2.5, 7]


def test_every_option_reaches_the_numbers() -> None:
    numbers = numbers_of(
        *("--classes", "a, b", "--logits=1,2", "--teacher-logits=-1,3", "--label", "b"),
        *("--at", "2", "--task-weight", "0.4", "--weight", "3"),
    )
    assert numbers["classes"] == ["a", "b"]
    assert (numbers["label"], numbers["at"]) == ("b", 2)
    total = 0.4 * numbers["hard_loss"] + 3 * 4 * numbers["kl"]
    assert numbers["total"] == pytest.approx(total, rel=1e-12)


def test_teacher_probabilities_hold_at_the_losses_temperature() -> None:
    numbers = numbers_of("--logits=1,2", "--teacher-probabilities", "0.2,0.8", "--at", "5")
    assert numbers["teacher_given_temperature"] == 5
    assert numbers["teacher_at"] == [0.2, 0.8]


def test_the_textbook_teacher_keeps_its_temperature_at_another() -> None:
    numbers = numbers_of("--example", "textbook", "--at", "5")
    assert (numbers["teacher_given_temperature"], numbers["at"]) == (3, 5)
    assert sum(numbers["teacher_at"]) == pytest.approx(1, abs=1e-12)


def test_a_runs_sample_is_explained(run_dir: Path) -> None:
    numbers = numbers_of("--run", str(run_dir), "--sample", "1", "--arm", "baseline")
    assert (numbers["classes"], numbers["label"], numbers["at"]) == (["cat", "dog"], "dog", 4)
    assert numbers["student_logits"] == [1, 0]
    assert "pets, test sample 0, distilled student" in run("--run", str(run_dir))


def test_a_run_brings_its_own_weights(run_dir: Path) -> None:
    path = run_dir / "results.json"
    term = {"loss": "kd", "weight": 2.0, "temperature": 4}
    recipe = {"objective": {"task_weight": 0.3, "terms": [term]}}
    save_record(path, replace(load_record(path, RunRecord), recipe=recipe))
    numbers = numbers_of("--run", str(run_dir))
    assert (numbers["task_weight"], numbers["weight"], numbers["at"]) == (0.3, 2.0, 4)
    assert numbers["total"] == pytest.approx(
        0.3 * numbers["hard_loss"] + 2 * 16 * numbers["kl"], rel=1e-12
    )
    assert numbers_of("--run", str(run_dir), "--weight", "5")["weight"] == 5


def test_picture_is_written_and_named(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    output = run("--picture", str(path))
    assert f"Image: {path}" in output
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_with_a_picture_stays_json(tmp_path: Path) -> None:
    assert numbers_of("--image", str(tmp_path / "page.html"))["at"] == 3
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logits=1,x"], r"--logits: 'x' is not a number. Give numbers separated by commas"),
        (["--logits=1,,2"], "--logits: '' is not a number"),
        (["--temperature", "0"], "temperature must be above 0 and finite, got 0.0"),
        (["--logits=1,nan"], "student logits must be finite numbers"),
        (["--classes", "a,b"], "--classes needs --logits"),
        (["--classes", "a,", "--logits=1,2"], "--classes holds an empty name"),
        (["--classes", "a,b,c", "--logits=1,2"], "student logits .* got 2 for 3 classes"),
        (["--label", "hores"], "Unknown label 'hores'. Did you mean 'horse'"),
        (["--sample", "1"], "--sample needs --run"),
        (["--run", "x", "--label", "cat"], "--label cannot stand beside --run"),
        (["--image", "page.png"], "--image must end in .html, got 'page.png'"),
        (["--teacher-logits=1,2,3,4", "--teacher-probabilities=0,0,0,1"], "not both"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such file"):
        run("--run", str(tmp_path / "nothing"))


def test_importing_the_command_does_not_import_torch() -> None:
    code = "import sys, tutelage.cli.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
