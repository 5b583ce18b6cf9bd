import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tutelage.errors import RunFolderError, TutelageError, UnreadableError, WriteError
from tutelage.files import (
    _HERE,
    check_regular,
    file_sha256,
    fingerprint,
    open_regular,
    read_bytes,
    read_text,
    refuse_links,
    staged,
    staged_folder,
    sweep,
    write_json,
    write_text,
    write_whole,
)


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "größer\n")
    assert path.read_text(encoding="utf-8") == "größer\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "before")

    def fail(temporary: Path):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFolderError, match=r"note.txt: cannot be written \(No space left on"):
        write_whole(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_a_write_that_is_cut_short_leaves_nothing(tmp_path, error):
    def fail(temporary: Path):
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_whole(tmp_path / "note.txt", fail)
    assert not list(tmp_path.iterdir())


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "before")
    seen = []

    def write(temporary: Path):
        temporary.write_text("af")
        seen.append(path.read_text())
        temporary.write_text("after")
        seen.append(path.read_text())

    write_whole(path, write)
    assert seen == ["before", "before"]
    assert path.read_text() == "after"


def test_the_content_is_on_the_disk_before_the_name_and_the_name_afterwards(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda number: order.append("fsync"))
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *a: (order.append("rename"), rename(*a))[1])
    write_text(tmp_path / "note.txt", "text")
    assert order == ["fsync", "rename", "fsync"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"cannot be written .* unchanged"):
        write_text(tmp_path / "file" / "note.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_text(tmp_path / "folder", "text")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_safetensors_file_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_whole(
            tmp_path / "w.safetensors",
            lambda temporary: save_file({"w": torch.ones(1)}, tmp_path / "no" / "such" / "folder"),
        )


def test_what_a_library_gives_to_its_owner_alone_is_as_open_as_other_files(tmp_path):
    def write(path: Path):
        path.write_text("x")
        path.chmod(0o600)

    (tmp_path / "other").touch()
    usual = (tmp_path / "other").stat().st_mode
    write_whole(tmp_path / "one", write)
    with staged(tmp_path / "two") as path:
        write(path)
    with staged_folder(tmp_path / "folder") as folder:
        write(folder / "three")
    for name in ("one", "two", "folder/three"):
        assert (tmp_path / name).stat().st_mode == usual, name


def test_a_folder_is_filled_only_if_nothing_is_raised(tmp_path):
    folder = tmp_path / "student"
    write_text(folder / "config.json", "before")
    write_text(folder / "notes.txt", "stays")

    def fill(staging: Path, error: Exception | None = None):
        (staging / "config.json").write_text("after")
        (staging / "1_Pooling").mkdir()
        (staging / "1_Pooling" / "config.json").write_text("below")
        if error is not None:
            raise error

    with pytest.raises(ValueError, match="late"), staged_folder(folder) as staging:
        fill(staging, ValueError("late"))
    assert (folder / "config.json").read_text() == "before"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "notes.txt"]
    with staged_folder(folder) as staging:
        fill(staging)
    assert (folder / "config.json").read_text() == "after"
    assert (folder / "notes.txt").read_text() == "stays"
    assert (folder / "1_Pooling" / "config.json").read_text() == "below"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_is_full_while_a_folder_is_filled_is_one_clear_error(tmp_path, error):
    refused = pytest.raises(WriteError, match="student: cannot be written")
    with refused, staged_folder(tmp_path / "student"):
        raise error
    assert not list(tmp_path.iterdir())


def test_an_error_of_reading_while_a_folder_is_filled_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "student"):
        (tmp_path / "missing").read_text()


def test_json_is_written_whole_and_nan_is_refused(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None, "ü"]}


def test_the_checksum_is_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # The test vector of FIPS 180-2, appendix B.1.
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_fingerprint_depends_on_content_and_not_on_order_of_keys():
    assert fingerprint({"a": 1, "b": [2.0, None]}) == fingerprint({"b": [2.0, None], "a": 1})
    values = [{}, [], "", None, 0, False, "0", 1.0, [1, 2], [2, 1], {"a": 1}, {"a": "1"}]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_a_fingerprint_is_the_same_in_every_process():
    assert fingerprint({"a": [1, "x"]}) == "bf5c117331004f32"


READERS = [open_regular, read_bytes, read_text, check_regular, file_sha256]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UnreadableError, match=rf"{name}: is a pipe, a file is needed\."):
            read(tmp_path / name)


@pytest.mark.parametrize("read", READERS)
def test_what_has_no_end_or_is_no_file_is_refused(tmp_path, read):
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with pytest.raises(UnreadableError, match="zeros: is a device"):
        read(tmp_path / "zeros")
    with pytest.raises(UnreadableError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


@pytest.mark.parametrize("read", READERS[:-1])
def test_a_file_larger_than_it_may_be_is_not_read(tmp_path, read):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(
        UnreadableError, match=r"huge: has 1,099,511,627,776 bytes, and no such file"
    ):
        read(path, largest=100)
    with pytest.raises(UnreadableError, match="no such file is larger than 67,108,864 bytes"):
        read_text(path)


def test_a_refused_file_is_an_error_of_the_system_too(tmp_path):
    with pytest.raises(OSError, match="is a folder") as caught:
        open_regular(tmp_path)
    assert isinstance(caught.value, TutelageError)
    assert caught.value.strerror == "is a folder, a file is needed"


def test_a_file_is_read_through_a_link_to_it(tmp_path):
    (tmp_path / "note").write_bytes("größer\r\n".encode())
    (tmp_path / "link").symlink_to("note")
    assert read_text(tmp_path / "link") == "größer\r\n"


def test_links_that_leave_a_folder_are_refused(tmp_path):
    (tmp_path / "run" / "arms").mkdir(parents=True)
    (tmp_path / "run" / "inside").symlink_to("arms")
    (tmp_path / "named").symlink_to("run")
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "named")
    refuse_links(tmp_path / "missing")
    for target in ("../../elsewhere", "/etc/passwd", str(tmp_path / "run2")):
        link = tmp_path / "run" / "arms" / "seed-0"
        link.symlink_to(target)
        with pytest.raises(RunFolderError, match=rf"arms/seed-0: is a link to {target}"):
            refuse_links(tmp_path / "named")
        link.unlink()


def test_half_written_files_are_swept_without_following_links(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note").write_text("kept")
    link = tmp_path / "run" / f".a.{_HERE}.999999999.tmp"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "kept")
    os.utime(link, (0, 0), follow_symlinks=False)
    sweep(tmp_path / "run")
    assert not link.is_symlink()
    assert (tmp_path / "kept" / "note").read_text() == "kept"
