import pytest
import torch
from torch.nn import functional as F

from tutelage.deploy import export_onnx, open_session, run_session
from tutelage.errors import ConfigError
from tutelage.models.load import make_model
from tutelage.models.text_nets import BagOfWords

NETS = [
    ("bag_of_words", {}),
    ("bag_of_words", {"buckets": 50, "hidden": 8}),
    ("bag_of_words", {"max_tokens": 7}),
    ("text_cnn", {"filters": 5, "sizes": [1, 2, 4]}),
]


def made(name, settings):
    torch.manual_seed(0)
    model = make_model(name, {"width": 6, **settings}, num_classes=3, vocab_size=30).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def texts(lengths, longest, pads_left=False, filler=0):
    rows = []
    for length in lengths:
        tokens = [(length * 11 + place * 5) % 29 + 1 for place in range(length)]
        padding = [filler] * (longest - length)
        rows.append([*padding, *tokens] if pads_left else [*tokens, *padding])
    ids = torch.tensor(rows)
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    return ids, mask.flip(dims=(1,)) if pads_left else mask


@pytest.mark.parametrize(("name", "settings"), NETS)
def test_padding_changes_nothing_whatever_its_side_and_its_token(name, settings):
    model = made(name, settings)
    wanted = torch.cat([model(*texts([length], length)) for length in (1, 3, 8)])
    for pads_left, longest, filler in ((False, 8, 0), (True, 8, 0), (False, 12, 5), (True, 13, 9)):
        given = model(*texts([1, 3, 8], longest, pads_left, filler))
        torch.testing.assert_close(given, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), NETS)
def test_an_exported_net_takes_any_number_and_length_of_texts(name, settings, tmp_path):
    pytest.importorskip("onnxscript")
    model = made(name, settings)
    file = tmp_path / "net.onnx"
    ids, mask = texts([2, 4], 4)
    export_onnx(model, {"input_ids": ids, "attention_mask": mask}, file)
    session = open_session(file, threads=1)
    for lengths, longest in (([1], 1), ([3, 1, 7], 8), ([12], 12)):
        ids, mask = texts(lengths, longest)
        given = run_session(session, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        torch.testing.assert_close(torch.from_numpy(given), model(ids, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), NETS)
def test_order_matters_to_those_that_see_it(name, settings):
    model = made(name, settings)
    ids, mask = texts([6], 6)
    moved = model(ids.flip(dims=(1,)), mask)
    is_blind = name == "bag_of_words" and "buckets" not in settings
    assert torch.allclose(moved, model(ids, mask), atol=1e-5) is is_blind


def test_a_bag_is_the_mean_of_its_tokens_vectors():
    model = made("bag_of_words", {})
    ids, mask = texts([4, 2], 5)
    means = torch.stack(
        [model.words.weight[ids[0, :4]].mean(0), model.words.weight[ids[1, :2]].mean(0)]
    )
    torch.testing.assert_close(
        model(ids, mask), F.linear(means, model.head.weight, model.head.bias)
    )


def test_pairs_begin_without_a_say():
    torch.manual_seed(0)
    model = BagOfWords(3, 30, 6, buckets=50)
    ids, mask = texts([6], 6)
    torch.testing.assert_close(model(ids.flip(dims=(1,)), mask), model(ids, mask))
    model(ids, mask).sum().backward()
    assert int((model.pairs.weight.grad.abs().sum(dim=1) > 0).sum()) == 5


def test_shared_rows_have_no_vectors_of_a_teacher():
    with pytest.raises(ConfigError, match="embeddings need a row for each token"):
        BagOfWords(3, 30, 6, max_tokens=7, embeddings="some-folder")
