"""A cache built by several jobs, from the command line."""

import pytest

from tutelage.cli.app import app, guarded

CHANGES = [
    "views={kind: shift, pixels: 1}",
    "teacher={model: mlp, settings: {hidden: [8]}, training: {train: {epochs: 1}}}",
    "student={model: mlp, settings: {hidden: [4]}}",
    "train.epochs=1",
    "seeds=[0]",
    "baseline=false",
    "measure=null",
]


def call(*arguments):
    return guarded(lambda **settings: app(list(arguments), **settings))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tutelage.teachers.build._samples_per_shard", lambda *_: 200)


@pytest.mark.parametrize("where", ["shared/cache", "memory://parts-by-command"])
def test_jobs_build_parts_and_a_run_learns_from_them(capsys, where):
    changes = [*CHANGES, f"cache.path={where}", "output=runs/parts"]
    build = ("cache", "build", "digits", *changes)
    assert call(*build, "--part", "1/2") == 2
    assert "--only-teacher" in capsys.readouterr().err
    assert call(*build, "--only-teacher") == 0
    assert call(*build, "--part", "2/2") == 0
    assert "others are missing" in capsys.readouterr().out
    assert call("cache", "finish", where) == 2
    assert "missing shards:" in capsys.readouterr().err
    assert call(*build, "--part", "1/2") == 0
    assert "the cache is complete" in capsys.readouterr().out
    assert call("cache", "finish", where) == 0
    assert call("cache", "info", where) == 0
    assert call("cache", "verify", where) == 0
    assert "are whole and unchanged" in capsys.readouterr().out
    assert call("run", "digits", *changes) == 0
    assert "kept" in capsys.readouterr().out.split("teacher cache")[1].splitlines()[0]


def test_a_run_folder_is_no_address(capsys):
    assert call("run", "digits", "output=s3://bucket/run") == 2
    assert "only cache.path takes an address" in capsys.readouterr().err
