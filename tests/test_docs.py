"""The pages say what the code says."""

import ast
import importlib.machinery
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import torch
import yaml
from pydantic import BaseModel
from shown import PAGES, ROOT

import tutelage
from tutelage.config import build_job, read_recipe
from tutelage.config.schema import Recipe
from tutelage.losses import LOSSES
from tutelage.pipeline import run_job

PAGE = ROOT / "docs" / "recipes.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WITH_YAML = [page for page in PAGES if "\n```yaml\n" in page.read_text(encoding="utf-8")]
WITH_PYTHON = [page for page in PAGES if "\n```python\n" in page.read_text(encoding="utf-8")]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
CITED = re.compile(r"\bdecisions?[ /](\d+)", re.IGNORECASE)
PART_OF = {"language-models.md": "smollm2", "text.md": "movie_snippets"}  # else of digits


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("docs_script", str(ROOT / "scripts" / "docs"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def copy(script, tmp_path, monkeypatch):
    """The script with a page of its own."""
    page = tmp_path / "recipes.md"
    shutil.copy(PAGE, page)
    monkeypatch.setattr(script, "PAGE", page)
    return page


def call(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["docs", *arguments])
    return script.main()


def test_the_page_of_recipes_is_up_to_date(script):
    text = PAGE.read_text(encoding="utf-8")
    assert script.filled(text) == text, "docs/recipes.md is stale. Run scripts/docs."


def test_a_stale_page_is_found_and_mended(script, copy, monkeypatch, capsys):
    whole = copy.read_text(encoding="utf-8")
    copy.write_text(whole.replace("Passes over the training data", "Something else"), "utf-8")
    assert call(script, monkeypatch, "--check") == 1
    assert "is stale. Run scripts/docs" in capsys.readouterr().err
    assert call(script, monkeypatch) == 0
    assert copy.read_text(encoding="utf-8") == whole
    assert call(script, monkeypatch, "--check") == 0


def test_a_table_without_its_place_is_an_error(script):
    text = PAGE.read_text(encoding="utf-8").replace("<!-- begin train -->", "")
    with pytest.raises(SystemExit, match="no place for 'train'"):
        script.filled(text)


def test_a_usual_value_of_no_field_is_an_error(script, monkeypatch):
    monkeypatch.setattr(script, "USUAL", {"Train.epochz": "20"})
    with pytest.raises(SystemExit, match=r"USUAL names no field: Train\.epochz"):
        script.filled(PAGE.read_text(encoding="utf-8"))


def test_every_model_of_the_schema_has_a_table(script):
    named = {"Recipe", *Recipe.model_json_schema()["$defs"]}
    shown = {model.__name__ for model in script.MODELS.values()}
    assert named - shown == {"Views"}


def test_the_recipes_on_the_page_are_recipes():
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        Recipe.model_validate(yaml.safe_load(block))


def test_the_losses_on_the_page_are_losses():
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", text[text.index("| `loss` |") :], re.MULTILINE)
    assert {"kd", "logit_mse", "cross_entropy"} <= {*named} & LOSSES.keys()


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def blocks_of(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [body for name, body in found if name == language]


def anchors_of(page: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip()).replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        is_whole = target.exists() and (not anchor or anchor in anchors_of(target))
        if "://" not in link and not is_whole:
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_link_to_no_file_and_to_no_heading_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` (c)\n[x](#a-b-c) [y](#a) [z](other.md) [w](page.md#a-b-c)\n")
    assert broken_links(page) == ["#a", "other.md"]


def heading_of(decision: Path) -> str:
    return decision.read_text(encoding="utf-8").partition("\n")[0]


@pytest.mark.parametrize("decision", DECISIONS, ids=name_of)
def test_a_decision_begins_with_its_number_and_its_title(decision):
    number = int(decision.name[:4])
    assert re.fullmatch(rf"# {number}\. \S.*[^.]", heading_of(decision))


def unknown_decisions(text: str) -> list[str]:
    """Numbers of decisions that a text cites and that no file has, in four digits, as files do."""
    known = {decision.name[:4] for decision in DECISIONS}
    return [number for number in CITED.findall(text) if number not in known]


def test_decisions_that_are_cited_exist():
    unknown = {}
    for folder in ("src", "docs", "examples", "benchmarks", "scripts"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md", "") and file.is_file():
                unknown[name_of(file)] = unknown_decisions(file.read_text(encoding="utf-8"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml"):
        unknown[name] = unknown_decisions((ROOT / name).read_text(encoding="utf-8"))
    assert {name: numbers for name, numbers in unknown.items() if numbers} == {}


def test_a_decision_that_does_not_exist_is_found():
    text = "[why](../decisions/9999-x.md), decision 9, docs/decisions/0009 and decisions 0077"
    assert unknown_decisions(text) == ["9999", "9", "0077"]


def types_below(annotation: Any) -> list[Any]:
    """The members of unions, without their annotations."""
    if get_origin(annotation) is Annotated:
        return types_below(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in types_below(member)]
    return [annotation]


def is_key(path: Sequence[str], annotation: Any = Recipe) -> bool:
    """Whether the schema has a key at a path; below a mapping without a model all may stand."""
    for kind in types_below(annotation):
        if not path or get_origin(kind) in (dict, Mapping):
            return True
        if get_origin(kind) in (list, tuple):
            below = path[1:] if path[0].isdigit() else path
            if is_key(below, get_args(kind)[0]):
                return True
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(path[0])
            allows_more = kind.model_config.get("extra") == "allow"
            if (field and is_key(path[1:], field.annotation)) or (not field and allows_more):
                return True
    return False


def keys_in(value: Any) -> Iterator[tuple[str, ...]]:
    """Paths of a mapping, read from YAML."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in pairs:
        yield (str(key),)
        if isinstance(below, dict | list):
            yield from ((str(key), *path) for path in keys_in(below))


def keys_of(page: Path) -> Iterator[tuple[str, ...]]:
    """Recipe keys that a page names: dotted, as an override, or in a line of YAML."""
    text = page.read_text(encoding="utf-8")
    words = re.findall(r"`([^`\n]+)`", prose_of(page))
    words += [word for body in blocks_of(page, "sh") for word in re.split(r"[\s'\"]+", body)]
    names = "|".join(set(Recipe.model_fields) - {"task"})  # `task.run` is Python
    for word in words:
        path = re.match(rf"({names})((?:\.\w+)*)(=|$)", word)
        is_file = word.endswith((".py", ".onnx", ".safetensors", ".bin"))
        if path and (path[2] or path[3]) and not is_file:
            yield tuple(f"{path[1]}{path[2]}".split("."))
        if re.match(rf"({names}): \S", word) and "`" + word + "`" in text:
            yield from keys_in(yaml.safe_load(word))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_recipe_keys_that_a_page_names_are_in_the_schema(page):
    assert {".".join(path) for path in keys_of(page) if not is_key(path)} == set()


def test_a_key_that_no_recipe_has_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`train.epochz`, `data.path`, `views: {kind: shift, pixels: 2}`, `train: {lr: 1}`"
    )
    wrong = {".".join(path) for path in keys_of(page) if not is_key(path)}
    assert wrong == {"train.epochz", "train.lr"}


@pytest.mark.parametrize("page", WITH_YAML, ids=name_of)
def test_the_yaml_of_a_page_is_a_recipe_or_a_part_of_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for body in blocks_of(page, "yaml"):
        part = yaml.safe_load(body)
        whole = {"data", "teacher", "student", "output"} <= set(part)
        if "base" not in part and not whole:
            body += f"base: {PART_OF.get(page.name, 'digits')}\n"
        Path("part.yaml").write_text(body, encoding="utf-8")
        read_recipe("part.yaml")


def unknown_names(code: str) -> list[str]:
    """Names of Tutelage and modules of others that a program uses and that are not there."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tutelage"):
            module = importlib.import_module(node.module)
            missing += [name.name for name in node.names if not hasattr(module, name.name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or alias.name for alias in node.names]
            roots = {name.partition(".")[0] for name in names} - {"nets"}  # a reader's own
            missing += [root for root in roots if importlib.util.find_spec(root) is None]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tutelage":
            missing += [] if hasattr(tutelage, node.attr) else [node.attr]
    return missing


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_programs_of_a_page_name_what_there_is(page):
    assert [name for body in blocks_of(page, "python") for name in unknown_names(body)] == []


def test_a_name_that_tutelage_does_not_have_is_found():
    code = "import no_such_module\nfrom tutelage import distil\ntutelage.KDD(4)\nimport nets\n"
    assert unknown_names(code) == ["no_such_module", "distil", "KDD"]


@pytest.mark.parametrize(
    ("name", "call", "channels"),
    [
        ("docs/tutorial.md", "make(num_classes=10, in_channels=1, width=2)", 1),
        ("docs/how-to/own-networks.md", "make_student(num_classes=10, in_channels=3)", 3),
    ],
)
def test_the_networks_of_a_page_answer(name, call, channels):
    (body,) = blocks_of(ROOT / name, "python")
    names: dict[str, Any] = {}
    exec(compile(body, name, "exec"), names)
    network = eval(call, names)
    assert network(torch.rand(2, channels, 8, 8)).shape == (2, 10)


@pytest.mark.commands
def test_the_programs_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = torch.arange(30) % 3
    data = (torch.nn.functional.one_hot(labels).float().repeat(1, 4), labels)
    names = {"teacher": torch.nn.Linear(12, 3), "student": torch.nn.Linear(12, 3)}
    names |= {"train_data": data, "test_data": data}
    for body in blocks_of(ROOT / "README.md", "python"):
        exec(body, names)
    assert Path("student.onnx").is_file()


@pytest.mark.commands
def test_the_programs_of_the_page_on_own_loops_run():
    labels = torch.arange(30) % 10
    inputs = torch.rand(30, 4)
    names = {"tutelage": tutelage, "torch": torch, "model": torch.nn.Linear(4, 10)}
    names |= {"student": torch.nn.Linear(4, 10), "loader": [(inputs, labels, torch.arange(30))]}
    names |= {"logits": torch.rand(30, 10), "teacher_logits": torch.rand(30, 10), "labels": labels}
    for body in blocks_of(ROOT / "docs" / "how-to" / "own-loop.md", "python"):
        exec(body, names)
    assert float(names["report"].total.detach()) > 0
    assert float(names["loss"]) > 0


@pytest.mark.commands
def test_the_programs_of_the_page_on_kinds_of_labels_run(capsys):
    names = {}
    for body in blocks_of(ROOT / "docs" / "how-to" / "kinds-of-labels.md", "python"):
        exec(compile(body, "kinds-of-labels.md", "exec"), names)
    assert names["result"].record.metric.name == "auroc"
    assert "mean absolute error" in capsys.readouterr().out


@pytest.mark.commands
def test_the_program_of_the_page_on_own_tasks_runs():
    names = {}
    for body in blocks_of(ROOT / "docs" / "how-to" / "own-task.md", "python"):
        exec(compile(body, "own-task.md", "exec"), names)
    assert names["result"].record.metric.name == "pinball"


@pytest.mark.commands
def test_the_programs_and_the_recipe_of_the_page_on_own_data_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "how-to" / "own-data.md"
    names = {}
    for body in blocks_of(page, "python"):
        if body.startswith("# mine.py"):
            Path("mine.py").write_text(body)
        exec(compile(body, "own-data.md", "exec"), names)
    (recipe,) = blocks_of(page, "yaml")
    Path("mine.yaml").write_text(recipe)
    job = build_job(read_recipe("mine.yaml", ["train.epochs=1", "seeds=[0]"]))
    assert run_job(job).record.verdict is not None
    assert Path("runs/mine/export/student.onnx").is_file()
