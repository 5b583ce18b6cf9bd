import json

import numpy as np
import pytest
import torch

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.data.views import Shift
from tutelage.errors import CacheError, ConfigError, MissingExtraError
from tutelage.models.nets import cnn
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers import build as build_module
from tutelage.teachers import parts as parts_module
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.parts import (
    Part,
    copy_here,
    finish,
    finish_or_say,
    parse_part,
    read_manifest,
    reopen,
    verify_place,
)
from tutelage.teachers.storage import LocalStorage, RemoteStorage, open_storage

TASK, CODEC = Classification(num_classes=4), make_codec("float32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return BatchBuilder(TensorSource(images), Shift(1))


@pytest.fixture(scope="module")
def live():
    torch.manual_seed(7)
    return ModuleTeacher(cnn(4, width=8), TASK, chunk=16)


@pytest.fixture
def s3(monkeypatch):
    """An address on an S3 server of this test."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{port}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/caches/one"
    server.stop()


@pytest.fixture(params=["folder", "memory", "file", "s3"])
def place(request, tmp_path):
    match request.param:
        case "folder":
            return LocalStorage(tmp_path / "there")
        case "memory":
            return RemoteStorage(f"memory://{tmp_path.name}/cache")
        case "file":
            return RemoteStorage(f"file://{tmp_path}/there")
    return RemoteStorage(request.getfixturevalue("s3"))


def build(place, live, reader, part=None):
    return build_cache(place, live, reader, CODEC, device=CPU, shard_bytes=1024, part=part)


def items(teacher, reader):
    ids = torch.arange(70).repeat_interleave(9)
    return teacher(reader[ids, torch.arange(9).repeat(70)]).logits


def test_a_slow_teacher_tells_of_every_batch_and_loses_few_samples(
    live, reader, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_module, "SHARD_SAMPLES", 40)
    told = []
    made = build_cache(
        tmp_path, live, reader, CODEC, device=CPU, progress=lambda *done: told.append(done)
    )
    assert [(shard.start, shard.stop) for shard in made.shards] == [(0, 40), (40, 70)]
    assert [done for done, _ in told] == [*range(16, 360, 16), 360, *range(376, 630, 16), 630]
    assert {total for _, total in told} == {630}


def test_parts_built_by_jobs_anywhere_make_the_cache_of_one(live, reader, tmp_path, place):
    whole = build(tmp_path / "whole", live, reader)
    assert len(whole.shards) == 10
    assert build(place, live, reader, Part(2, 3)) is None
    with pytest.raises(CacheError, match=r"missing shards: \d+ of \d+ \(0, 1, .*--part"):
        finish_or_say(place)
    assert build(place, live, reader, Part(3, 3)) is None
    made = build(place, live, reader, Part(1, 3))  # the last one completes it
    assert [(s.start, s.stop) for s in made.shards] == [(s.start, s.stop) for s in whole.shards]
    assert made.key == whole.key == cache_key(live, reader, CODEC)
    assert finish_or_say(place) == made
    verify_place(place, made)
    assert not [name for name in place.names() if name.startswith("shard") and "json" in name]
    if isinstance(place, LocalStorage):
        folder = place.path
    else:
        folder = tmp_path / "copy"
        copy_here(place, folder, made.key)
    assert torch.equal(items(CachedTeacher(folder, made.key), reader), items(live, reader))


def test_a_part_that_comes_again_leaves_a_complete_cache_alone(live, reader, place):
    made = build(place, live, reader)
    assert build(place, live, reader, Part(1, 3)) == made
    verify_place(place, finish_or_say(place))


def test_a_part_that_another_has_overtaken_finds_the_manifest(live, reader, place, monkeypatch):
    build(place, live, reader, Part(1, 2))
    read = parts_module.read_notes

    def overtaken(where, names, key=None):
        monkeypatch.setattr(parts_module, "read_notes", read)
        build(place, live, reader, Part(2, 2))
        return read(where, names, key)

    monkeypatch.setattr(parts_module, "read_notes", overtaken)
    assert finish(place, cache_key(live, reader, CODEC)) == read_manifest(place)


def test_a_part_that_was_cut_short_builds_only_what_is_missing(live, reader, place, monkeypatch):
    build(place, live, reader, Part(1, 2))
    place.remove("shard-00001.json")
    place.remove("shard-00003.safetensors")
    made, write = [], build_module._write
    monkeypatch.setattr(
        build_module,
        "_write",
        lambda builder, path, *rest: made.append(path.name) or write(builder, path, *rest),
    )
    build(place, live, reader, Part(1, 2))
    there_whole = {"shard-00001.safetensors"} if isinstance(place, LocalStorage) else set()
    assert set(made) == {"shard-00001.safetensors", "shard-00003.safetensors"} - there_whole


def test_a_remote_shard_that_changed_is_found_and_made_again(live, reader, tmp_path, place):
    key = build(place, live, reader).key
    name = "shard-00002.safetensors"
    place.get(name, tmp_path / name)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    if isinstance(place, LocalStorage):
        (place.path / name).write_bytes(content)
    else:
        place.put(tmp_path / name)
    with pytest.raises(CacheError, match=f"{name} is missing or damaged"):
        verify_place(place, read_manifest(place))
    if isinstance(place, RemoteStorage):
        copy_here(place, tmp_path / "copy", key)
        with pytest.raises(CacheError, match="damaged"):
            CachedTeacher(tmp_path / "copy", key)
    reopen(place)
    verify_place(place, build(place, live, reader))


def test_a_copy_is_brought_once_and_only_if_it_fits(live, reader, tmp_path, monkeypatch):
    place, copy = RemoteStorage(f"memory://{tmp_path.name}/cache"), tmp_path / "copy"
    key = build(place, live, reader).key
    copy_here(place, copy, key)
    (copy / "manifest.json").unlink()
    (copy / "shard-00000.safetensors").write_bytes(b"half")
    brought, get = [], RemoteStorage.get
    monkeypatch.setattr(
        RemoteStorage, "get", lambda self, name, path: brought.append(name) or get(self, name, path)
    )
    copy_here(place, copy, key)
    assert [name for name in brought if "shard" in name] == ["shard-00000.safetensors"]
    assert torch.equal(items(CachedTeacher(copy, key), reader), items(live, reader))
    other = cache_key(live, BatchBuilder(reader.source), CODEC)
    with pytest.raises(CacheError, match="made from another views"):
        copy_here(place, copy, other)


def test_shards_of_two_builds_in_one_place_are_refused(live, reader, tmp_path):
    build(tmp_path, live, reader, Part(1, 2))
    text = json.loads((tmp_path / "shard-00000.json").read_text())
    text.pop("sha256")
    text["key"]["teacher"] = "another"
    (tmp_path / "shard-00000.json").write_text(json.dumps(text))
    with pytest.raises(CacheError, match="shards 0 and 1 were made from different things"):
        finish_or_say(LocalStorage(tmp_path))


def test_an_empty_place_and_a_wrong_address_say_so(tmp_path):
    with pytest.raises(CacheError, match="no shards with notes lie there"):
        finish_or_say(LocalStorage(tmp_path))
    with pytest.raises(CacheError, match=r"no complete teacher cache .*cache finish PLACE"):
        read_manifest(RemoteStorage(f"memory://{tmp_path.name}/none"))
    with pytest.raises(CacheError, match=r"nowhere://x: cannot be opened \(ValueError"):
        open_storage("nowhere://x")
    with pytest.raises(MissingExtraError, match=r"gdrive.*'tutelage\[remote\]'"):
        open_storage("gdrive://x")


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "a/b", "-1/2", "1/0", "1/2/3", "9" * 30 + "/"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--part must be K/N"):
        parse_part(text)


@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_parts_are_all_shards_once(count):
    numbers = [n for k in range(1, count + 1) for n in Part(k, count).of(23)]
    assert numbers == list(range(23))
    assert np.ptp([len(Part(k, count).of(23)) for k in range(1, count + 1)]) <= 1
