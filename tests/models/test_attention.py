"""Which attention a network is trained with."""

import copy

import pytest
import torch
from texts import WORDS, save_transformer
from torch import nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import Source, TensorSource
from tutelage.data.tokens import TokenSource
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit
from tutelage.losses import CrossEntropy
from tutelage.models.attention import SHORT, fastest_attention
from tutelage.models.hf import hf_factory
from tutelage.models.nets import mlp
from tutelage.tasks import Classification

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = save_transformer(tmp_path_factory.mktemp("bert"))
    return hf_factory(str(folder))(num_classes=2)


def used(model):
    return {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}


def used_within(model, device=CPU, precision="bf16", longest=SHORT):
    with fastest_attention(model, device, precision, longest):
        return used(model)


def test_short_texts_on_a_cpu_in_bf16_take_plain_products(bert):
    assert used_within(bert) == {"eager"}
    assert used_within(nn.Sequential(bert)) == {"eager"}
    assert used(bert) == {"sdpa"}


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "float32"},
        {"longest": SHORT + 1},
        {"longest": None},
        {"device": torch.device("cuda")},
    ],
)
def test_all_else_is_left_as_it_is(bert, change):
    assert used_within(bert, **change) == {"sdpa"}


def test_what_was_chosen_before_comes_back_after_an_error(bert):
    model = copy.deepcopy(bert)
    model.set_attn_implementation("eager")
    for network, before in ((model, "eager"), (bert, "sdpa")):
        with pytest.raises(ValueError, match="stop"), fastest_attention(network, CPU, "bf16", 5):
            raise ValueError("stop")
        assert used(network) == {before}


def test_plain_products_say_the_same(bert):
    ids = torch.randint(5, len(WORDS), (6, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 1, 4, 9, 2, 7])[:, None]).long()
    fused = bert(input_ids=ids, attention_mask=mask).logits
    with fastest_attention(bert, CPU, "bf16", 9):
        torch.testing.assert_close(bert(input_ids=ids, attention_mask=mask).logits, fused)


def test_a_training_in_bf16_takes_them_and_gives_the_network_back_as_it_was(bert, tmp_path):
    source = TokenSource([[5 + n % 30, 6 + n % 30] for n in range(8)], [0, 1] * 4)
    seen = []
    student = copy.deepcopy(bert)
    student.register_forward_hook(lambda *_: seen.append(frozenset(used(student))))
    settings = TrainSettings(
        epochs=1, batch_size=4, precision="bf16", optimizer=OptimizerSettings()
    )
    arm = Arm(
        name="baseline",
        seed=0,
        objective=1.0 * CrossEntropy(),
        task=Classification(num_classes=2),
        settings=settings,
        train=BatchBuilder(source, num_classes=2),
        valid=None,
        teacher=None,
        folder=tmp_path,
        key="k",
    )
    fitted = fit(student, arm)
    assert set(seen) == {frozenset({"eager"})}
    assert used(student) == used(fitted.last) == used(fitted.selected) == {"sdpa"}


def test_tokens_of_the_longest_sample_are_told():
    texts = TokenSource([[1, 2], [1, 2, 3], [1]], [0, 1, 0])
    assert BatchBuilder(texts).longest == 3
    images = TensorSource(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    assert BatchBuilder(images).longest is None


def test_blocks_of_tokens_are_as_long_as_the_first():
    class Blocks(Source):
        fingerprint, in_memory = "blocks", True

        def __len__(self):
            return 3

        def fetch(self, ids):
            return {"input_ids": torch.ones(len(ids), 7, dtype=torch.long)}, None

    assert BatchBuilder(Blocks()).longest == 7


def test_a_network_without_a_choice_stays():
    with fastest_attention(mlp(2, hidden=(4,)), CPU, "bf16", 5):
        pass
