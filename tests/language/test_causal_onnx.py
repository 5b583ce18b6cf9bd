"""A language model as ONNX: the same text, token by token or at once."""

import numpy as np
import pytest
import torch
from tiny_language import make_model

from tutelage.deploy.causal import OnnxText
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.engine.generation import generate, greedy
from tutelage.errors import ExportError
from tutelage.pipeline.lm_export import Sample, check, compare

pytestmark = pytest.mark.whole

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
IDS = torch.randint(0, 20, (6, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def opened(shipped):
    return OnnxText(shipped.out / "student" / "model.onnx")


@pytest.fixture
def untimed(monkeypatch):
    monkeypatch.setattr("tutelage.pipeline.lm_export.take_turns", lambda *_: np.ones((1, 2)))


def test_the_record_holds_how_the_file_compares(shipped):
    (row,) = shipped.record.text_files
    assert (row.file, row.target) == ("model.onnx", "onnx")
    assert row.runtime.startswith("ONNX Runtime ")
    assert row.count == 640
    assert row.max_abs_difference < 1e-4
    assert row.agreement > 0.99
    assert row.kl < 1e-6
    assert row.perplexity == pytest.approx(row.expected_perplexity, rel=1e-4)
    assert row.written == 128
    assert row.shortfall < 1e-3
    assert row.tokens_per_s > 0
    assert row.expected_tokens_per_s > 0
    page = (shipped.out / "report.html").read_text()
    assert "model.onnx" in page


@pytest.mark.parametrize(("texts", "read"), [(1, 1), (1, 5), (4, 3)])
def test_it_writes_the_same_text_as_pytorch(shipped, opened, texts, read):
    prompts = IDS[:texts, :read]
    wanted = generate(shipped.student, prompts, 6, greedy)
    assert torch.equal(opened.write(prompts, 6), wanted)


def test_texts_of_other_lengths_are_filled_up_on_the_left(opened):
    short, whole = IDS[:1, :4].numpy(), IDS[1:2, :7].numpy()
    batch = np.concatenate([np.concatenate([np.zeros((1, 3), np.int64), short], axis=1), whole])
    mask = np.array([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
    logits, past = opened.step(batch, opened.empty_past(2), mask)
    further, _ = opened.step(batch[:, :1], past, np.pad(mask, ((0, 0), (0, 1)), constant_values=1))
    for row, text in enumerate((short, whole)):
        alone, kept = opened.step(text, opened.empty_past(1))
        np.testing.assert_allclose(logits[row, -1], alone[0, -1], atol=1e-5)
        more, _ = opened.step(batch[row : row + 1, :1], kept)
        np.testing.assert_allclose(further[row], more[0], atol=1e-5)


def test_inputs_have_the_names_that_other_tools_know(opened):
    inputs = [one.name for one in opened.session.get_inputs()]
    assert inputs[:4] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
    ]
    assert [one.name for one in opened.session.get_outputs()][:2] == ["logits", "present.0.key"]
    assert len(inputs) == 7


@pytest.mark.usefixtures("untimed")
def test_a_file_that_says_something_else_is_refused(opened):
    other = make_model(24, seed=1).eval()
    row = compare(other, opened, Sample(IDS[:, :-1], IDS[:, 1:]))
    with pytest.raises(ExportError, match=r"differ from PyTorch's by .* nats of KL, 0.001"):
        check(row, TEXT_TARGETS["onnx"].most_kl)


@pytest.mark.usefixtures("untimed")
def test_a_cache_that_loses_something_is_refused(shipped, opened, monkeypatch):
    step = opened.step
    monkeypatch.setattr(
        opened, "step", lambda tokens, past: step(tokens, opened.empty_past(len(tokens)))
    )
    row = compare(shipped.student, opened, Sample(IDS[:, :-1], IDS[:, 1:]))
    assert row.perplexity == pytest.approx(row.expected_perplexity, rel=1e-4)  # read at once
    with pytest.raises(ExportError, match=r"differ from PyTorch's by .* nats of KL, 0.001"):
        check(row, TEXT_TARGETS["onnx"].most_kl)


@pytest.mark.usefixtures("untimed")
def test_a_file_that_writes_something_else_is_refused(shipped, opened, monkeypatch):
    other = torch.randint(0, 20, (4, 36), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(opened, "write", lambda prompts, count: other[: len(prompts)])
    row = compare(shipped.student, opened, Sample(IDS[:, :-1], IDS[:, 1:]))
    assert row.kl < 1e-6
    with pytest.raises(ExportError, match=r"with its key-value cache .* 0.01 is allowed"):
        check(row, TEXT_TARGETS["onnx"].most_kl)


def test_a_student_too_large_for_one_file_is_refused_before_training():
    large = torch.nn.Linear(2**15, 2**14, device="meta")
    with pytest.raises(ExportError, match=r"holds 2 GiB, the student's weights take 2.0. Use gguf"):
        TEXT_TARGETS["onnx"].check(large, None)


def test_another_onnx_file_is_no_language_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    kind = onnx.helper.make_tensor_value_info("inputs", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["inputs"], ["logits"])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", [kind], [out]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="is no language model with a key-value cache"):
        OnnxText(tmp_path / "other.onnx")
