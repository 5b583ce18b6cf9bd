from pathlib import Path

import pytest
import torch

from tests.processes.cases import live_teacher, objectives, reader
from tests.processes.launch import CONTEXT
from tutelage import distributed
from tutelage.teachers import CachedTeacher
from tutelage.teachers import build as build_module
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.parts import Part, read_manifest, verify_place
from tutelage.teachers.storage import LocalStorage

pytestmark = pytest.mark.whole


def build(folder):
    """Build the cache of the small trainings; gives the shards that this process made."""
    made, write = [], build_module._write
    build_module._write = lambda builder, path, *rest: (
        made.append(path.name) or write(builder, path, *rest)
    )
    live = live_teacher(objectives()["kd"])
    live.chunk = 16
    codec = make_codec("float32")
    manifest = build_module.build_cache(
        Path(folder), live, reader(), codec, device=torch.device("cpu"), shard_bytes=1024
    )
    build_module._write = write
    return made, len(manifest.shards), distributed.world().number


def build_part(folder, number):
    """One of four jobs that know nothing of one another."""
    data, codec = reader(), make_codec("float32")
    build_module.build_cache(
        Path(folder),
        live_teacher(objectives()["kd"]),
        data,
        codec,
        device=torch.device("cpu"),
        shard_bytes=512,
        part=Part(number, 4),
    )


def test_jobs_that_build_at_the_same_time_make_one_cache(tmp_path):
    jobs = [CONTEXT.Process(target=build_part, args=(str(tmp_path), n)) for n in (1, 2, 3, 4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(timeout=120)
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
    place = LocalStorage(tmp_path)
    verify_place(place, read_manifest(place))


def test_two_processes_build_the_cache_of_one_each_its_own_shards(together, tmp_path):
    alone, count, _ = build(tmp_path / "one")
    first, second = together(build, str(tmp_path / "two"))
    assert sorted(first[0] + second[0]) == sorted(alone)
    assert len(alone) == count == first[1] == second[1]
    assert abs(len(first[0]) - len(second[0])) <= 1
    ids, views = torch.arange(49).repeat_interleave(9), torch.arange(9).repeat(49)
    batch = reader()[ids, views]
    by_one, by_two = (CachedTeacher(tmp_path / name)(batch).logits for name in ("one", "two"))
    assert torch.equal(by_one, by_two)
    assert torch.equal(by_one, live_teacher(objectives()["kd"])(batch).logits)
