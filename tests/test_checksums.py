"""Files that carry a checksum: what comes back is what was written, or there is an error."""

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage import checksums
from tutelage.checksums import (
    has_checksum,
    read_json_with_checksum,
    read_metadata,
    write_json_with_checksum,
    write_tensors,
)
from tutelage.errors import RunFolderError
from tutelage.records import load_record, save_record
from tutelage.stage_files import CompletionMarker

VALUE = {"key": "abc", "curve": [1.5, None, {"ü": 2}]}
TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


def test_json_comes_back_and_any_program_can_read_it(tmp_path):
    path = tmp_path / "record.json"
    write_json_with_checksum(path, VALUE)
    assert read_json_with_checksum(path) == VALUE
    plain = json.loads(path.read_text())
    assert len(plain.pop("sha256")) == 64
    assert plain == VALUE


def test_the_checksum_is_of_all_that_follows_it(tmp_path):
    path = tmp_path / "record.json"
    write_json_with_checksum(path, VALUE)
    first, second, *rest = path.read_text().splitlines(keepends=True)
    body = second.split(",", 1)[1] + "".join(rest)
    assert first == "{\n"
    assert hashlib.sha256(body.encode()).hexdigest() in second


def test_every_changed_byte_of_a_record_is_noticed(tmp_path):
    """The first ones make it look like a file without a checksum, which begins with its fields."""
    path = tmp_path / "stamp.json"
    save_record(path, CompletionMarker("abc", {"a": "b"}))
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"stamp\.json: "):
            load_record(path, CompletionMarker)


def test_a_file_that_is_too_large_is_not_even_read(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json_with_checksum(path, VALUE)
    monkeypatch.setattr(checksums, "LARGEST_JSON", 10)
    with pytest.raises(RunFolderError, match="larger than 10 bytes"):
        read_json_with_checksum(path)


def test_tensors_and_facts_come_back_and_equal_ones_give_equal_bytes(tmp_path):
    facts = {"stop": 7, "build": "x", "kl": 0.1}
    for name in ("a", "b"):
        write_tensors(tmp_path / name, TENSORS, dict(reversed(facts.items())))
    assert read_metadata(tmp_path / "a") == facts
    assert has_checksum(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = load_file(tmp_path / "a")
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


def test_every_changed_byte_of_a_tensor_file_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {"stop": 7})
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"t\.safetensors: "):
            read_metadata(path)


@pytest.mark.parametrize("cut", [0, 4, 8, 60, 150, -1])
def test_a_tensor_file_cut_short_is_noticed(tmp_path, cut):
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunFolderError, match=r"t\.safetensors: "):
        read_metadata(path)


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(RunFolderError, match="declares a header of 1099511627776 bytes"):
        read_metadata(path)


def test_files_of_other_programs_carry_no_checksum(tmp_path):
    save_file(TENSORS, tmp_path / "t.safetensors", {"format": "pt"})
    assert not has_checksum(tmp_path / "t.safetensors")
    with pytest.raises(RunFolderError, match="carries no checksum"):
        read_metadata(tmp_path / "t.safetensors")
    with pytest.raises(RunFolderError, match="no such file"):
        read_metadata(tmp_path / "none")
