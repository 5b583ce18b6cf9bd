"""One writer to a folder, whoever dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tutelage.errors import LockedError, RunFolderError, WriteError
from tutelage.files import _HERE, FORGOTTEN_S
from tutelage.locks import HOLDER, locked

HOLD = """
import sys, time
from pathlib import Path
from tutelage.locks import locked
with locked(Path(sys.argv[1]), "a long run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_with_its_holder(tmp_path, holder):
    message = rf"{tmp_path}: in use by process {holder.pid} on .* since .*a long run.*kill"
    with pytest.raises(LockedError, match=message), locked(tmp_path, "run"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER).exists()
    with locked(tmp_path, "run"):
        assert (tmp_path / HOLDER).read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / HOLDER).exists()


def test_the_same_process_holds_a_folder_once(tmp_path):
    with locked(tmp_path, "run"), pytest.raises(LockedError), locked(tmp_path, "run"):
        pass
    with locked(tmp_path, "run"):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"7", b"9" * 400, b"x y z w"])
def test_a_damaged_note_of_the_holder_is_told_as_another_process(tmp_path, content):
    with locked(tmp_path, "run"):
        (tmp_path / HOLDER).write_bytes(content)
        with pytest.raises(LockedError, match="in use by"), locked(tmp_path, "run"):
            pass


def test_a_place_that_cannot_be_locked_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/run"):
        with pytest.raises(WriteError, match="cannot be locked"), locked(tmp_path / place, "run"):
            pass


def test_other_processes_of_a_launch_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    with locked(tmp_path, "run"):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path, "run"):
            pass


def test_what_a_killed_process_had_half_written_is_swept_away(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    below = tmp_path / "arms"
    below.mkdir()
    orphan = below / f".stamp.json.{_HERE}.{dead.pid}.tmp"
    mine = below / f".stamp.json.{_HERE}.{os.getpid()}.tmp"
    elsewhere, forgotten = below / ".a.json.other.7.tmp", below / ".b.json.other.7.tmp"
    foreign = below / ".notes.tmp"
    for path in (orphan, mine, elsewhere, forgotten, foreign):
        path.write_text("half")
    before = time.time() - FORGOTTEN_S - 1
    os.utime(forgotten, (before, before))
    with locked(tmp_path, "run"):
        assert sorted(below.iterdir()) == sorted([mine, elsewhere, foreign])


def test_a_folder_with_a_link_out_of_it_is_not_locked(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(RunFolderError, match=r"run/\.lock: is a link to"),
        locked(tmp_path / "run", "x"),
    ):
        pass
    assert (tmp_path / "elsewhere").read_text() == "kept"
