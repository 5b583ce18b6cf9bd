"""Nothing in a file is executed: what the package may call, and where users' code runs."""

import ast
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from tutelage.config import build_job, read_recipe
from tutelage.data.cifar import unpack
from tutelage.errors import ConfigError, DataError, ModelError, TutelageError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.models.load import make_model, read_state
from tutelage.models.own import NOT_OWN, import_own

ROOT = Path(__file__).parents[1]
PROGRAMS = [
    path
    for folder in ("src", "scripts", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix == ".py" or (path.suffix == "" and path.is_file() and folder == "scripts")
]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.unsafe_load",
    "yaml.full_load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter",
    "shutil.unpack_archive", "pandas.read_pickle", "pd.read_pickle", "runpy.run_path",
}  # fmt: skip
NEVER_METHODS = {"save_state", "load_state", "extractall", "load_module"}
RUNS_CODE = {"import_module", "exec_module", "spec_from_file_location"}
PLACES = {
    "src/tutelage/__init__.py",  # names of the package itself
    "src/tutelage/config/build.py",  # loaders of the package, by fixed names
    "src/tutelage/deploy/standalone.py",  # runtimes, by fixed names
    "src/tutelage/errors.py",  # extras, by fixed names
    "src/tutelage/models/own.py",  # file.py:make and module:make
}


def calls(path):
    """Every call of a file as (dotted name, node), and what it imports as names."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == "" and not text.startswith("#!/usr/bin/env python3"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((f"import {alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"import {node.module}", node
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbidden(path):
    """Calls that could run what lies in a file, reach into the network for code, or a shell."""
    found = []
    for name, node in calls(path):
        last = name.rpartition(".")[2]
        given = {k.arg: ast.unparse(k.value) for k in getattr(node, "keywords", [])}
        hashes = {"joblib"} if isinstance(node, ast.Import) else set()  # of what lies in memory
        bad = (
            (name.startswith("import ") and name[7:].split(".")[0] in MODULES - hashes)
            or (name.startswith("joblib.") and name != "joblib.hash")
            or name in NEVER
            or (last in NEVER_METHODS and "." in name and "filter" not in given)
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (last == "load" and given.get("allow_pickle", "False") != "False")
            or given.get("trust_remote_code", "False") == "True"
            or given.get("shell", "False") != "False"
        )
        if bad:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_program_calls_what_could_run_data(path):
    assert forbidden(path) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.hub.load('a/b', 'c')",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "yaml.unsafe_load(text)",
        "accelerator.save_state(folder)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_search_finds_it(tmp_path, code):
    (tmp_path / "bad.py").write_text(code)
    assert forbidden(tmp_path / "bad.py")


def imports_what_it_is_told(path):
    """Whether a file imports a module whose name does not stand in it."""
    return any(
        name.rpartition(".")[2] in RUNS_CODE and not isinstance(node.args[0], ast.Constant)
        for name, node in calls(path)
        if isinstance(node, ast.Call) and node.args
    )


def test_users_code_is_imported_in_one_place():
    sources = [path for path in PROGRAMS if path.is_relative_to(ROOT / "src")]
    found = {str(p.relative_to(ROOT)) for p in sources if imports_what_it_is_told(p)}
    assert found == PLACES


@pytest.mark.parametrize(
    "name",
    ["os:system", "subprocess:call", "builtins:exec", "torch.hub:load", "transformers:pipeline"],
)
def test_a_recipe_cannot_call_what_is_not_its_users_own(tmp_path, name):
    with pytest.raises(ConfigError, match="no module of your own"):
        make_model(name, {"command": f"touch {tmp_path / 'ran'}"}, num_classes=2)
    recipe = read_recipe("digits", [f"objective.terms=[{{loss: '{name}'}}]"])
    with pytest.raises(ConfigError, match=r"objective\.terms\[0\].*no module of your own"):
        build_job(recipe)
    assert not list(tmp_path.iterdir())


def test_the_libraries_underneath_are_nobodys_own():
    for name in NOT_OWN:
        with pytest.raises(ConfigError, match="no module of your own"):
            import_own(name, "model")


YAML = [
    "!!python/object/apply:os.system ['touch ran']",
    "data: !!python/name:os.system",
    "data: !!python/module:os",
    "<<: !!python/object/new:subprocess.Popen [['touch', 'ran']]",
    "!include other.yaml",
]


@pytest.mark.parametrize("text", YAML)
def test_tags_of_yaml_make_nothing(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TutelageError, match=r"mine\.yaml"):
        read_recipe(tmp_path / "mine.yaml")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)


def test_an_archive_writes_its_known_files_and_no_other(tmp_path):
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        names = ("fine_label_names.txt", "test.bin", "train.bin")
        for name in (*(f"cifar-100-binary/{name}" for name in names), "../../evil", "/tmp/evil2"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            packed.addfile(entry, io.BytesIO(b"data"))
    unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar.tar.gz", "out"]


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name in ("fine_label_names.txt", "test.bin", "train.bin"):
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            packed.addfile(entry)
    with pytest.raises(DataError, match="is no file in it"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


LIBRARY_CALLS = (".from_pretrained", "SentenceTransformer")


def test_every_folder_of_a_hub_is_loaded_without_its_code():
    """Left open, transformers asks on the terminal whether to run it."""
    found = 0
    for path in (ROOT / "src").rglob("*.py"):
        for name, node in calls(path):
            text = ast.unparse(node)
            is_hub = name.startswith(("transformers.", "kind.")) or name.endswith("Transformer")
            if is_hub and name.endswith(LIBRARY_CALLS) and "modules=" not in text:
                assert "NO_CODE" in text or "tokenizer_file=" in text, text
                found += 1
    assert found >= 8


FOLDERS = {
    "config.json": {
        "model_type": "theirs", "num_labels": 2, "trust_remote_code": True,
        "architectures": ["Theirs"],
        "auto_map": {
            "AutoConfig": "theirs.Config",
            **{
                f"AutoModel{head}": "theirs.Theirs"
                for head in ("", "ForCausalLM", "ForSequenceClassification")
            },
        },
    },
    "tokenizer_config.json": {
        "tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]},
    },
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "theirs.Theirs"}],
    "sentence_bert_config.json": {"model_args": {"trust_remote_code": True}},
}  # fmt: skip


@pytest.mark.parametrize("name", ["hf:{}", "causal:{}", "sentence:{}", "static:{}"])
@pytest.mark.parametrize("settings", [{}, {"trust_remote_code": True}])
def test_a_folder_from_the_hub_runs_no_code_of_its_own(tmp_path, monkeypatch, name, settings):
    pytest.importorskip("sentence_transformers")
    marker = tmp_path / "ran"
    for file, content in FOLDERS.items():
        (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    with pytest.raises(TutelageError):
        make_model(name.format(tmp_path), settings, num_classes=2)
    assert not marker.exists()


def test_a_tokenizer_runs_no_code_of_its_folder(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    marker = tmp_path / "ran"
    for file, content in FOLDERS.items():
        (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    with pytest.raises(TutelageError):
        load_tokenizer(str(tmp_path))
    assert not marker.exists()


def test_weights_are_given_as_weights_and_not_to_timm(tmp_path):
    pytest.importorskip("timm")
    with pytest.raises(TutelageError, match=r"settings\.checkpoint_path is not taken"):
        make_model("timm:resnet18", {"checkpoint_path": "x.pth"}, num_classes=2)


def test_weights_that_would_run_code_or_have_no_end_are_refused(tmp_path):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"weight": Touch()}, tmp_path / "a.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zeros.safetensors").symlink_to("/dev/zero")
    for name in ("a.pt", "pipe.pt", "zeros.safetensors"):
        with pytest.raises(ModelError, match=f"{name}: cannot be read as weights"):
            read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()
