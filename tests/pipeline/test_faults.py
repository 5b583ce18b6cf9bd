"""Runs that are stopped, starved or damaged: what was good stays, and the reason is said."""

import errno
import os
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tutelage.data.images import load_image_folder
from tutelage.data.scan import check_files, sources_of_files
from tutelage.data.sources import TensorSource
from tutelage.data.views import Identity
from tutelage.doctor import check
from tutelage.engine import OptimizerSettings, TrainSettings
from tutelage.engine.events import Advanced, StageDone, StageStarted
from tutelage.engine.fit import _Loop
from tutelage.errors import (
    CacheError,
    DataError,
    LockedError,
    RunFolderError,
    TrainingError,
    TutelageError,
    WriteError,
)
from tutelage.files import file_sha256
from tutelage.job import TeacherPlan
from tutelage.locks import locked
from tutelage.models.nets import mlp
from tutelage.pipeline import run_job
from tutelage.records import RunRecord, load_record
from tutelage.teachers import CachedTeacher
from tutelage.teachers.build import build_cache
from tutelage.types import Batch

pytestmark = pytest.mark.whole

TIMES = ("seconds", "build_seconds")


def told(record: RunRecord):
    """A record without what a clock says, and without the checksums of files that say it too."""

    def strip(value):
        if isinstance(value, dict):
            kept = {key: inside for key, inside in value.items() if key not in TIMES}
            return {k: strip(v) for k, v in kept.items() if not k.endswith("training.json")}
        return [strip(inside) for inside in value] if isinstance(value, list) else value

    return strip(asdict(record))


class Stages:
    """A listener that keeps what was done, and can interrupt in the middle of a stage."""

    def __init__(self, stop_in="", after=0):
        self.stop_in, self.after = stop_in, after
        self.kept = {}
        self.now = ""
        self.stopped = False

    def __call__(self, event):
        match event:
            case StageStarted(name=name):
                self.now = name
                self._perhaps_stop(0)
            case Advanced(done=done):
                self._perhaps_stop(done)
            case StageDone(name=name, was_there=was_there):
                self.kept[name] = was_there

    def _perhaps_stop(self, done):
        if not self.stopped and (self.now, self.after) == (self.stop_in, done):
            self.stopped = True
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """A cache of several shards, though it is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tutelage.pipeline.training.build_cache", partial(build_cache, shard_bytes=2000)
        )
        yield


@pytest.fixture(scope="module")
def whole(make_job, small_shards, tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_job(make_job(folder))
    return folder


@pytest.fixture(scope="module")
def expected(whole):
    """Its results."""
    return told(load_record(whole / "results.json", RunRecord))


# Interrupted.


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        ("teacher", 3),
        ("teacher", 8),
        ("teacher cache", 0),
        ("teacher cache", 324),
        ("distilled, seed 0", 1),
        ("distilled, seed 1", 8),
        ("evaluation", 0),
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(make_job, tmp_path, expected, stage, after):
    job = make_job(tmp_path / "cut")
    listener = Stages(stage, after)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, listener)
    assert listener.stopped
    assert not (job.out / "results.json").exists()
    assert told(run_job(job).record) == expected
    assert told(load_record(job.out / "results.json", RunRecord)) == expected


def test_an_interrupt_in_the_last_validation_is_not_lost(make_job, tmp_path, monkeypatch):
    """The signal comes when no step is left that could notice it."""
    job = make_job(tmp_path)
    validate = _Loop._validate

    def interrupted(loop, judged):
        if loop.arm.name == "baseline" and loop.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(loop, judged)

    monkeypatch.setattr(_Loop, "_validate", interrupted)
    listener = Stages()
    with pytest.raises(KeyboardInterrupt, match="baseline, seed 0"):
        run_job(job, listener)
    assert "distilled, seed 0" not in listener.kept


def test_a_second_run_goes_on_where_the_first_was_interrupted(make_job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(tmp_path), Stages("distilled, seed 0", 3))
    listener = Stages()
    run_job(make_job(tmp_path), listener)
    assert listener.kept == {
        "teacher": True,
        "teacher cache": True,
        "baseline, seed 0": True,
        "baseline, seed 1": True,
        "distilled, seed 0": False,
        "distilled, seed 1": False,
        "evaluation": False,
    }


def test_an_interrupted_cache_build_keeps_its_whole_shards(make_job, tmp_path):
    job = make_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Stages("teacher cache", 340))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/shard-*.safetensors")}
    assert len(before) == 2
    assert not (tmp_path / "cache/manifest.json").exists()
    run_job(job)
    assert (tmp_path / "cache/manifest.json").is_file()
    assert len(list(tmp_path.glob("cache/shard-*.safetensors"))) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_half_built_cache_of_another_teacher_is_built_anew(make_job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(tmp_path), Stages("teacher cache", 340))
    other = TeacherPlan(make=lambda: mlp(3, image_size=6, hidden=(20,)), train=_train(), seed=5)
    first = told(run_job(make_job(tmp_path, teacher=other)).record)
    assert first == told(run_job(make_job(tmp_path / "fresh", teacher=other)).record)


def _train(**changes):
    return TrainSettings(**{"epochs": 2, "batch_size": 16} | changes)


# A cache that does not fit.


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"teacher": TeacherPlan(lambda: mlp(3, image_size=6, hidden=(9,)), train=_train())},
            r"another teacher \(teacher: \w+ chunk=16 there, \w+ chunk=16 here\)",
        ),
        ({"views": Identity()}, r"another views .*shift\(1\) there, identity here"),
        ({"codec": "float16"}, r"another codec \(codec: float32 there, float16 here\)"),
        ({"settings": _train(batch_size=8)}, "another teacher .*chunk=16 there, .*chunk=8 here"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_reason(make_job, finished, changes, reason):
    with pytest.raises(CacheError, match=reason) as caught:
        run_job(make_job(finished, **changes))
    assert str(finished / "cache") in str(caught.value)
    assert "tutelage cache build" in str(caught.value)


def test_a_cache_of_other_data_is_refused(make_job, finished):
    job = make_job(finished)
    inputs, labels = job.splits.train.inputs.clone(), job.splits.train.labels
    inputs[7, 0, 3, 3] ^= 1
    fixed = TeacherPlan(make=lambda: _loaded(job, finished))
    run_job(replace(job, teacher=fixed, out=finished.with_name("other")))
    other = replace(job.splits, train=TensorSource(inputs, labels))
    with pytest.raises(CacheError, match="another data"):
        run_job(replace(job.on(other), teacher=fixed, out=finished.with_name("other")))


def _loaded(job, folder):
    model = job.teacher.make()
    model.load_state_dict(load_file(folder / "teacher/selected.safetensors"))
    return model


@pytest.mark.parametrize("place", [8, 200, -1])
def test_a_flipped_byte_in_the_cache_is_refused_with_the_file(make_job, finished, place):
    shard = finished / "cache/shard-00000.safetensors"
    _flip(shard, place)
    with pytest.raises(CacheError, match=f"{shard}: the shard is damaged"):
        run_job(make_job(finished))


def test_a_shortened_or_missing_shard_is_refused(make_job, finished):
    shard = finished / "cache/shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CacheError, match="the shard is damaged"):
        run_job(make_job(finished))
    shard.unlink()
    with pytest.raises(CacheError, match="the shard is missing"):
        run_job(make_job(finished))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\0", '{"format": "x"}'])
def test_a_damaged_manifest_is_refused(make_job, finished, content):
    (finished / "cache/manifest.json").write_text(content)
    with pytest.raises(CacheError, match=r"manifest\.json: .*tutelage cache build"):
        run_job(make_job(finished))


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "teacher/selected.safetensors",
        "arms/baseline/seed-0/last.safetensors",
        "arms/distilled/seed-1/training.json",
    ],
)
def test_a_result_that_was_changed_is_refused_with_the_file(make_job, finished, name):
    _flip(finished / name, -3)
    with pytest.raises(RunFolderError, match=f"{finished / name}: was changed or removed"):
        run_job(make_job(finished))


def test_a_damaged_checkpoint_is_refused_and_can_be_removed(make_job, tmp_path, expected):
    job = make_job(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Stages("baseline, seed 0", 5))
    checkpoint = job.out / "arms/baseline/seed-0/checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(RunFolderError, match=f"{checkpoint}: damaged"):
        run_job(job)
    checkpoint.unlink()
    assert told(run_job(job).record) == expected


# A full disk.


WRITTEN = [
    "checkpoint.safetensors",
    "selected.safetensors",
    "stamp.json",
    "shard-00000.safetensors",
    "manifest.json",
    "results.json",
]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_is_one_error_and_the_next_run_goes_on(
    make_job, tmp_path, monkeypatch, expected, name
):
    job = make_job(tmp_path / "full")
    rename = Path.replace

    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(WriteError, match=f"{name}: cannot be written .No space left") as e:
            run_job(job)
    assert "the same command again" in str(e.value)
    assert not [path for path in job.out.rglob("*") if path.name.endswith(".tmp")]
    assert told(run_job(job).record) == expected


def test_a_full_disk_leaves_the_results_of_an_earlier_run_whole(make_job, finished, monkeypatch):
    before = {path: file_sha256(path) for path in finished.rglob("*") if path.is_file()}

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(WriteError, match="No space left"):
            run_job(make_job(finished))
    assert {path: file_sha256(path) for path in finished.rglob("*") if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_one_error_and_space_lets_the_run_go_on(
    make_job, small_disk, expected
):
    job = make_job(small_disk / "run")
    with pytest.raises(WriteError, match="cannot be written"):
        run_job(job)
    assert not [path for path in job.out.rglob("*") if path.name.endswith(".tmp")]
    assert (job.out / "teacher/stamp.json").is_file()
    more = ["mount", "-o", "remount,size=16m", str(small_disk)]
    subprocess.run(more, capture_output=True, check=True)
    listener = Stages()
    assert told(run_job(job, listener).record) == expected
    assert listener.kept["teacher"]


# Numbers that go wrong.


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(make_job, tmp_path):
    """Steps are slow to go wrong, and a checkpoint is due after each of them."""
    wild = _train(checkpoint_s=0.0, optimizer=OptimizerSettings(kind="sgd", lr=1e12), epochs=3)
    checkpoint = tmp_path / "arms/baseline/seed-0/checkpoint.safetensors"
    with pytest.raises(TrainingError, match=r"baseline, seed 0: the .* in epoch 1, step \d+") as e:
        run_job(make_job(tmp_path, settings=wild))
    assert f"The last good checkpoint is {checkpoint}. Try" in str(e.value)
    assert all(value.isfinite().all() for value in _floats(load_file(checkpoint)))


def test_weights_that_are_not_finite_are_never_saved(make_job, tmp_path):
    """One step makes the weights infinite, though its loss was fine."""
    wild = _train(checkpoint_s=0.0, optimizer=OptimizerSettings(kind="sgd", lr=1e39))
    with pytest.raises(TrainingError, match=r"baseline, seed 0: .* in epoch 1, step \d+"):
        run_job(make_job(tmp_path, settings=wild))
    for path in tmp_path.glob("arms/**/*.safetensors"):
        assert all(value.isfinite().all() for value in _floats(load_file(path))), path


def _floats(state):
    return [value for value in state.values() if value.is_floating_point()]


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_sample_that_is_not_a_number_stops_the_run(make_job, tmp_path, part):
    job = make_job(tmp_path, codec=None, views=Identity())
    splits = {}
    for name in ("train", "valid", "test"):
        source = getattr(job.splits, name)
        splits[name] = TensorSource(source.inputs.float() / 255, source.labels)
    splits[part].inputs[20] = torch.nan
    with pytest.raises(TutelageError, match=r"nan|NaN"):
        run_job(job.on(replace(job.splits, **splits)))


# Images that cannot be read.


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        for number in range(30):
            picture = tmp_path / "pictures" / name / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), tuple(min(255, c + number) for c in colour)).save(picture)
    return tmp_path / "pictures"


def _picture_job(make_job, folder, out):
    return make_job(
        out,
        splits=load_image_folder(folder, 8),
        teacher=TeacherPlan(
            make=lambda: mlp(2, image_size=8, in_channels=3, hidden=(8,)), train=_train()
        ),
        make_student=lambda: mlp(2, image_size=8, in_channels=3, hidden=(4,)),
    )


def test_a_folder_of_pictures_goes_through_a_whole_run(make_job, folder, tmp_path):
    record = run_job(_picture_job(make_job, folder, tmp_path / "run")).record
    assert record.class_names == ["blue", "red"]


@pytest.mark.parametrize("number", [7, 23])
def test_truncated_pictures_are_named_before_anything_is_trained(
    make_job, folder, tmp_path, number
):
    """Whichever part they fall into."""
    bad = [folder / "red" / f"{number}.png", folder / "blue" / f"{29 - number}.png"]
    for file in bad:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        run_job(_picture_job(make_job, folder, tmp_path / "run"))
    assert any(str(file) in str(caught.value) for file in bad)
    assert not (tmp_path / "run/teacher").exists()


def test_all_pictures_that_are_bad_are_told_at_once_and_looked_at_once(
    make_job, folder, tmp_path, monkeypatch
):
    job = _picture_job(make_job, folder, tmp_path / "run")
    check_files(sources_of_files(job.splits))
    listener = Stages()
    run_job(job, listener)
    assert listener.kept["pictures"] is False
    run_job(job, listener)
    assert listener.kept["pictures"] is True
    bad = [folder / "red" / f"{number}.png" for number in range(7)]
    for file in bad:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png: cannot .*/1\.png: .*/4\.png: .*And 2 more\."):
        check_files(sources_of_files(job.splits))


def test_a_class_without_pictures_is_named_before_anything_is_trained(make_job, folder, tmp_path):
    (folder / "green").mkdir()
    with pytest.raises(DataError, match=f"{folder / 'green'}: the class has no images"):
        _picture_job(make_job, folder, tmp_path / "run")


# Two at once.


def test_a_second_run_on_one_folder_is_refused_and_the_first_ends_well(
    make_job, tmp_path, expected
):
    second = []

    def listener(event):
        if isinstance(event, StageStarted) and event.name == "baseline, seed 1":
            with pytest.raises(LockedError, match="in use by process") as caught:
                run_job(make_job(tmp_path))
            second.append(caught.value)

    assert told(run_job(make_job(tmp_path), listener).record) == expected
    assert len(second) == 1


def test_a_second_build_of_one_cache_is_refused(make_job, tmp_path):
    with (
        locked(tmp_path / "cache", "cache build"),
        pytest.raises(LockedError, match="cache: in use by process"),
    ):
        run_job(make_job(tmp_path))


def test_two_readers_of_one_cache_read_the_same(whole):
    first, second = CachedTeacher(whole / "cache"), CachedTeacher(whole / "cache")
    ids = torch.arange(20)
    batch = Batch(torch.zeros(20, 1), None, ids, ids % 9)
    assert torch.equal(first(batch).logits, second(batch).logits)


def test_check_says_what_is_changed_as_pictures_are_read(make_job, folder, tmp_path):
    Image.new("RGBA", (8, 8)).save(folder / "red" / "clear.png")
    job = _picture_job(make_job, folder, tmp_path / "run")
    found = [finding.text for finding in check(job) if finding.about == "images"]
    assert found == [
        "Images with transparent pixels, which show the background (data.background): 1 of 61."
    ]
