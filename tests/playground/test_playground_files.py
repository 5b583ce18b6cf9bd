"""What stands in the way of a playground is one clear error, and the server stops on Ctrl-C."""

import _thread
import io
import shutil
import stat
import tarfile
import threading
import urllib.error
import urllib.request
import webbrowser
from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.deploy import export_onnx
from tutelage.errors import ConfigError, MissingExtraError, RunFolderError
from tutelage.pipeline.stages import mark_complete
from tutelage.playground import find_runtime, serve, write_folder
from tutelage.playground import runtime as places
from tutelage.playground.content import read_run
from tutelage.playground.image_samples import measure_hand
from tutelage.playground.runtime import ONNX
from tutelage.playground.serve import make_server
from tutelage.records import RunRecord, load_record, save_record
from tutelage.stage_files import left_files


def make_runtime(folder):
    folder.mkdir(parents=True)
    for name in ONNX.files:
        (folder / name).write_text("/*! ONNX Runtime Web v9.8.7 */ </script>")
    return folder


def use_npm(monkeypatch, tmp_path, script):
    """A folder that has nothing but such an npm is all of PATH; the cache is empty."""
    tools = tmp_path / "tools"
    tools.mkdir()
    if script is not None:
        npm = tools / "npm"
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("inside", ["", "dist", "package/dist", f"node_modules/{ONNX.name}/dist"])
def test_a_given_runtime_is_found_however_it_was_unpacked(tmp_path, inside):
    folder = make_runtime(tmp_path / "given" / inside)
    found = find_runtime(tmp_path / "given")
    assert found.folder.resolve() == folder.resolve()
    assert found.version == "9.8.7"


def test_a_given_folder_without_a_runtime_is_refused(tmp_path):
    with pytest.raises(
        MissingExtraError, match=r"--runtime .*ort\.wasm\.min\.js.*onnxruntime-web@"
    ):
        find_runtime(tmp_path)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "npm is not installed"),
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", r"npm failed \(npm error code ENOTFOUND\)"),
        ("echo nothing", "npm left no package"),
        ("echo other > a.tgz", "SHA-256 [0-9a-f]{64}, d2228df7"),
    ],
)
def test_without_npm_the_error_says_what_to_do(monkeypatch, tmp_path, script, reason):
    use_npm(monkeypatch, tmp_path, script)
    with pytest.raises(MissingExtraError, match=reason) as caught:
        find_runtime()
    assert f"{ONNX.name}@{ONNX.version}" in str(caught.value)
    assert "--runtime DIR" in str(caught.value)
    assert not (tmp_path / "cache" / "tutelage").exists()


def test_the_runtime_is_brought_once(monkeypatch, tmp_path):
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name in ONNX.files:
            member = tarfile.TarInfo(f"package/dist/{name}")
            content = f"// ONNX Runtime Web v{ONNX.version} {name}".encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    use_npm(monkeypatch, tmp_path, f"{shutil.which('cp')} {package} .")
    monkeypatch.setattr("tutelage.playground.runtime.file_sha256", lambda path: "right")
    monkeypatch.setattr(places, "ONNX", replace(ONNX, sha256="right"))
    assert find_runtime().version == ONNX.version
    (tmp_path / "tools" / "npm").unlink()
    assert find_runtime().read(ONNX.files[1]).endswith(ONNX.files[1].encode())


def test_a_run_without_exports_is_refused(run, tmp_path):
    shutil.copy(run / "results.json", tmp_path)
    with pytest.raises(RunFolderError, match=r"teacher\.onnx: no such file.*measure"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"results\.json: no such file"):
        read_run(tmp_path)


def test_a_run_of_other_inputs_is_refused(run, tmp_path):
    record = load_record(run / "results.json", RunRecord)
    texts = [replace(sample, image_png=None) for sample in record.samples]
    save_record(tmp_path / "results.json", replace(record, samples=texts))
    with pytest.raises(ConfigError, match="neither images nor texts"):
        read_run(tmp_path)


def test_networks_that_take_no_pictures_are_refused(run, tmp_path):
    teacher = tmp_path / "export" / "teacher.onnx"
    export_onnx(torch.nn.Linear(5, 3), torch.randn(2, 5), teacher)
    student = teacher.with_name("student.onnx")
    shutil.copy(teacher, student)
    mark_complete(teacher.parent, "key", [teacher, student])
    record = load_record(run / "results.json", RunRecord)
    save_record(tmp_path / "results.json", replace(record, files=left_files(tmp_path)))
    with pytest.raises(ConfigError, match=r"shape \(.*, 5\).*square images"):
        read_run(tmp_path)


def test_the_folder_has_the_networks_as_they_were_exported(run, tmp_path):
    written = write_folder(run, tmp_path / "page", find_runtime(make_runtime(tmp_path / "ort")))
    names = ("teacher.onnx", "student.onnx", "student.int8.onnx")
    for name in names:
        copy = tmp_path / "page" / "models" / name
        assert copy.read_bytes() == (run / "export" / name).read_bytes()
    files = [file for file in (tmp_path / "page").rglob("*") if file.is_file()]
    assert len(files) == len(names) + 3
    assert written.size_bytes == sum(file.stat().st_size for file in files)
    assert "v9.8.7 */ <\\/script>" in written.page.read_text()


def test_a_pen_is_measured_from_pictures():
    dark = np.zeros((1, 20, 20), dtype=np.uint8)
    dark[0, 5:15, 9:11] = 255
    hand = measure_hand([dark])
    assert (hand.background, hand.extent) == (0, 0.5)
    light = measure_hand([255 - dark])
    assert (light.background, light.extent, light.pen) == (255, 0.5, hand.pen)
    assert 0.04 <= hand.pen <= 0.2
    assert measure_hand([np.zeros_like(dark)]).extent == 0.7


def test_it_is_served_on_the_loopback_address_until_ctrl_c(monkeypatch, tmp_path):
    (tmp_path / "index.html").write_text("the page")
    got = []

    def visit(address):
        def read():
            with urllib.request.urlopen(address) as answer:
                got.append(answer.read())
            _thread.interrupt_main()

        threading.Thread(target=read).start()

    monkeypatch.setattr(webbrowser, "open", visit)
    told = []
    serve(tmp_path, told.append)
    assert told[0].startswith("http://127.0.0.1:")
    assert got == [b"the page"]


@pytest.fixture
def ask(tmp_path):
    """Ask a server of one page and one file; what it answers."""
    page = tmp_path / "page"
    (page / "models").mkdir(parents=True)
    (page / "index.html").write_text("the page")
    (page / "models" / "a.onnx").write_text("a network")
    (page / "notes.txt").write_text("not listed")
    (tmp_path / "secret").write_text("secret")
    (page / "linked").symlink_to(tmp_path / "secret")
    (page / "out").symlink_to(tmp_path)
    names = ("models/a.onnx", "linked", "out/secret", "gone")
    with make_server(page, names) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path, host=None, method="GET"):
            address = f"http://127.0.0.1:{server.server_port}{path}"
            headers = {} if host is None else {"Host": host.format(port=server.server_port)}
            request = urllib.request.Request(address, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, answer.read().decode(), dict(answer.headers)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode(), dict(error.headers)

        yield get
        server.shutdown()


def test_the_page_and_its_files_are_served_with_careful_headers(ask):
    for path in ("/", "/index.html", "/?a=b"):
        assert ask(path)[:2] == (200, "the page")
    status, text, headers = ask("/models/a.onnx")
    assert (status, text, headers["X-Content-Type-Options"]) == (200, "a network", "nosniff")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Python" not in headers["Server"]
    assert ask("/models/a.onnx", method="HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/notes.txt", "/models", "/models/", "/gone", "/linked", "/out/secret", "/../secret",
     "/%2e%2e/secret", "//etc/passwd", "/models/../index.html", "/%00"],
)  # fmt: skip
def test_nothing_else_is_served_and_no_link_is_followed(ask, path):
    assert ask(path)[:2] == (404, "")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", ""])
def test_a_name_that_leads_here_is_not_answered(ask, host):
    assert ask("/", host=host)[:2] == (421, "")
    assert ask("/", host="localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_sent(ask, method):
    assert ask("/", method=method)[0] == 501
