"""The script that brings a language model and text: what it makes of the packages."""

import importlib.machinery
import importlib.util
import io
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "get-language"


@pytest.fixture(scope="module")
def script():
    loader = importlib.machinery.SourceFileLoader("get_language", str(SCRIPT))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("get_language", loader)
    )
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    sys.dont_write_bytecode = False
    return module


def test_words_and_signs_are_put_together_as_they_are_printed(script):
    words = ["He", "said", "(", "twice", ")", ",", "``", "go", "on", "''", "."]
    assert script.DATA.plain_text(words) == 'He said (twice), "go on".'


def test_texts_of_the_corpus_lose_their_tags(script):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in (
            ("ca02", "and/cc or/cc"),
            ("ca01", "\tThe/at 1/2/cd jury/nn ./."),
            ("README", "x/y"),
        ):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        assert list(script.brown_documents(archive)) == ["The 1/2 jury.", "and or"]


def test_meanings_are_words_and_gloss(script, tmp_path):
    line = '00001930 03 n 02 physical_entity 0 thing(a) 0 001 @ 00001740 n 0000 | what "exists"  \n'
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 licence\n" + (line if part == "noun" else ""))
    assert list(script.wordnet_documents(tmp_path)) == ['physical entity, thing: what "exists"']


def test_a_package_of_another_content_is_refused(script, tmp_path, monkeypatch, capsys):
    def pack(command, folder, hint):
        (folder / "corpus.tgz").write_bytes(b"something else")

    monkeypatch.setattr(script.DATA, "run_tool", pack)
    assert script.main(["english", "--to", str(tmp_path)]) == 1
    assert "checksum differs" in capsys.readouterr().err
    assert not (tmp_path / "english").exists()


def test_what_is_there_is_not_brought_again(script, tmp_path, monkeypatch, capsys):
    for name in script.TEXT_SHA256:
        (tmp_path / name).write_text(name)
    digests = {name: script.DATA.file_sha256(tmp_path / name) for name in script.TEXT_SHA256}
    monkeypatch.setattr(script, "TEXT_SHA256", digests)
    assert script.get("english", tmp_path).startswith("english: already right")


def test_a_name_that_is_not_known_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["nothing"])
    assert "known: smollm2, english" in capsys.readouterr().err
