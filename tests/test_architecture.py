"""What must hold of the whole tree, read as text and as syntax."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage
from tutelage.losses import LOSSES

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "tutelage").rglob("*.py"))
LONGEST = 600
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}


def name_of(path):
    return str(path.relative_to(ROOT))


@functools.cache
def nodes(path):
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(path):
    """Every call of a file as (dotted name, node)."""
    return [(ast.unparse(n.func), n) for n in nodes(path) if isinstance(n, ast.Call)]


def over_all(search):
    """What a search finds, by file; files without a finding are left out."""
    return {name_of(path): found for path in SOURCES if (found := search(path))}


def softmax_names(path):
    names = [n.attr for n in nodes(path) if isinstance(n, ast.Attribute)]
    names += [n.id for n in nodes(path) if isinstance(n, ast.Name)]
    names += [a.name for n in nodes(path) if isinstance(n, ast.ImportFrom) for a in n.names]
    return [name for name in names if "softmax" in name.lower()]


def test_softmax_and_temperature_live_in_one_file():
    assert list(over_all(softmax_names)) == ["src/tutelage/losses/divergences.py"]


def hidden_softmax(path):
    hidden = {"cross_entropy", "kl_div", "CrossEntropyLoss", "KLDivLoss", "NLLLoss"}
    named = [name for name, _ in calls(path) if name.rpartition(".")[2] in hidden]
    return [name for name in named if name.rpartition(".")[0] not in ("", "divergences")]


def test_library_losses_that_hide_a_softmax_are_not_used():
    assert over_all(hidden_softmax) == {}


def imports(path):
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""


def unsafe(path):
    """Ways of running what lies in a file."""
    found = [name for name in imports(path) if name.split(".")[0] in UNSAFE_MODULES]
    safe_loaders = {
        n.name
        for n in nodes(path)
        if isinstance(n, ast.ClassDef) and any("Safe" in ast.unparse(base) for base in n.bases)
    }
    for name, call in calls(path):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        loaders = [*map(ast.unparse, call.args[1:]), *given.values()]
        is_safe_yaml = any("Safe" in text or text in safe_loaders for text in loaders)
        bad = (
            name in UNSAFE_CALLS
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False")
            or (name in ("yaml.load", "yaml.load_all") and not is_safe_yaml)
            or name.rpartition(".")[2] in ("unsafe_load", "full_load")
            or (name.startswith("subprocess.") and given.get("shell") == "True")
            or name == "os.system"
            or (name.startswith("joblib.") and name != "joblib.hash")  # which reads nothing
        )
        if bad:
            found.append(ast.unparse(call))
    return found


def test_nothing_that_is_read_can_run_code():
    assert over_all(unsafe) == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_the_search_for_unsafe_code_finds_it(tmp_path, code):
    (tmp_path / "bad.py").write_text(code)
    assert unsafe(tmp_path / "bad.py")


@pytest.mark.parametrize(
    "code", ["torch.log_softmax(x)", "from torch.nn.functional import softmax", "nn.Softmax()"]
)
def test_the_search_for_softmax_finds_it(tmp_path, code):
    (tmp_path / "bad.py").write_text(code)
    assert softmax_names(tmp_path / "bad.py")


def test_the_search_for_hidden_softmax_and_bare_names_finds_them(tmp_path):
    (tmp_path / "bad.py").write_text(
        "F.cross_entropy(x, y)\nclass Bare:\n    def bare(self): ...\n"
    )
    assert hidden_softmax(tmp_path / "bad.py") == ["F.cross_entropy"]
    assert undocumented(tmp_path / "bad.py") == ["module", "Bare", "Bare.bare"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_no_heavy_library(arguments):
    code = (
        "import sys\n"
        "from tutelage.cli.app import main\n"
        f"sys.argv = ['tutelage', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'accelerate', 'numpy', 'scipy', 'sklearn', 'plotly'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_are_short_and_rarely_long():
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert max(lines.values()) <= LONGEST, lines
    assert sum(count > 400 for count in lines.values()) <= len(lines) / 20


def undocumented(path):
    """Public modules, classes, functions and methods without a docstring."""

    def look(node, place):
        for inner in getattr(node, "body", []):
            is_thing = isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            is_setter = any(
                ".setter" in ast.unparse(d) for d in getattr(inner, "decorator_list", [])
            )
            if is_thing and not is_setter and not inner.name.startswith("_"):
                if not ast.get_docstring(inner):
                    yield f"{place}{inner.name}"
                if isinstance(inner, ast.ClassDef):
                    yield from look(inner, f"{inner.name}.")

    tree = next(node for node in nodes(path) if isinstance(node, ast.Module))
    return [*([] if ast.get_docstring(tree) else ["module"]), *look(tree, "")]


def test_every_public_name_is_documented():
    assert over_all(undocumented) == {}


def test_what_the_package_exports_is_there():
    assert sorted(tutelage.__all__) == sorted(set(tutelage.__all__))
    for name in tutelage.__all__:
        assert getattr(tutelage, name).__module__.startswith("tutelage.")
    exported = {name for names in tutelage._HOMES.values() for name in names}
    assert set(tutelage.__all__) == exported | {loss.__name__ for loss in LOSSES.values()}
    with pytest.raises(AttributeError, match="no attribute 'kdd'"):
        tutelage.kdd  # noqa: B018


def test_every_loss_can_be_imported_from_the_losses():
    losses = importlib.import_module("tutelage.losses")
    for kind in LOSSES.values():
        assert getattr(losses, kind.__name__) is kind


def pages():
    """Every Markdown page that is in the repository."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        listed = [name_of(path) for path in ROOT.glob("*.md")]
    return [name for name in listed if name and (ROOT / name).is_file()]


def anchors(text):
    """Headings as a renderer names them."""
    titles = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def broken_links(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        is_there = file.exists() and ROOT in [file, *file.parents]
        if is_there and anchor and file.suffix == ".md":
            is_there = anchor in anchors(file.read_text("utf-8"))
        if not is_there:
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", pages())
def test_links_between_pages_lead_somewhere(page):
    assert broken_links(ROOT / page) == []


def test_the_search_for_broken_links_finds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A heading, with marks\n")
    (tmp_path / "page.md").write_text(
        "[a](there.md) [b](there.md#a-heading-with-marks) [c](https://x.org) `[d](gone.md)`\n"
        "[e](gone.md) [f](there.md#gone)\n"
    )
    assert broken_links(tmp_path / "page.md") == ["gone.md", "there.md#gone"]


BESIDE = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")])


def is_there(module, name):
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.import_module(f"{module}.{name}")
        )
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", BESIDE, ids=name_of)
def test_benchmarks_and_examples_import_what_is_there(path):
    """Nobody runs them every day: a name that moved would be missed when it is needed."""
    imports = [
        (node.module, alias.name)
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tutelage")
        for alias in node.names
    ]
    assert [pair for pair in imports if not is_there(*pair)] == []


def test_dir_lists_the_public_names_and_no_others():
    assert set(dir(tutelage)) == {*tutelage.__all__, "__version__"}
    for name in tutelage.__all__:
        assert getattr(tutelage, name) is not None
