"""How language models are run and judged."""

import math

import pytest
import torch
from small_models import small
from tiny_language import WORDS, make_model, make_tokenizer

from tutelage.data.corpus import BlockSource, PaddedSource
from tutelage.data.loading import BatchBuilder, in_order
from tutelage.errors import DataError, ModelError, ShapeError
from tutelage.losses import KD, CrossEntropy
from tutelage.models.causal import make_causal
from tutelage.records import Evaluation, load_record, save_record
from tutelage.report.formatting import number
from tutelage.tasks import LanguageModeling
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch, HiddenStates, Outputs

TASK = LanguageModeling(num_classes=20, block_size=8)


def block_batch(count: int = 5, highest: int = 20) -> Batch:
    tokens = torch.randint(0, highest, (8 * count + 1,), generator=torch.Generator().manual_seed(0))
    reader = BatchBuilder(BlockSource(tokens, 8), num_classes=20)
    ids = torch.arange(count)
    return reader[ids, torch.zeros_like(ids)]


@pytest.mark.parametrize("tied", [True, False])
def test_the_hidden_states_are_those_of_the_models_own_logits(tied):
    model, batch = make_model(24, tied=tied), block_batch()
    outputs = TASK.run(model, batch)
    assert isinstance(outputs.scores, HiddenStates)
    wanted = model(input_ids=batch.inputs["input_ids"]).logits[..., :20].flatten(end_dim=1)
    torch.testing.assert_close(outputs.logits, wanted)


def test_a_model_of_other_kinds_gives_logits():
    class Other(torch.nn.Module):
        def forward(self, input_ids):
            return torch.nn.functional.one_hot(input_ids, 24).float()

    outputs = TASK.run(Other(), block_batch())
    assert not isinstance(outputs.scores, HiddenStates)
    assert outputs.logits.shape == (40, 20)


def test_under_autocast_the_head_is_in_its_precision():
    model = make_model(24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = TASK.run(model, block_batch())
    assert outputs.scores.values.dtype == outputs.scores.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "bert"])
def test_a_teacher_in_bf16_says_what_its_model_says_in_bf16(kind):
    model, task = small(kind), LanguageModeling(num_classes=20, block_size=8)
    batch = block_batch(count=4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = model(input_ids=batch.inputs["input_ids"]).logits[..., :20].flatten(end_dim=1)
    said = ModuleTeacher(model, task, chunk=4, precision="bf16")(batch)
    torch.testing.assert_close(said.logits.float(), wanted.float(), rtol=0.01, atol=0.01)
    objective = 0.5 * CrossEntropy() + 0.5 * KD(temperature=2)
    student = Outputs(torch.randn(32, 20, generator=torch.Generator().manual_seed(0)))
    report, dense = (
        objective(student, outputs, task.items(batch)) for outputs in (said, Outputs(wanted))
    )
    torch.testing.assert_close(report.total, dense.total, rtol=0.01, atol=0.001)


def test_a_vocabulary_that_is_too_small_is_one_clear_error():
    with pytest.raises(ShapeError, match="scores 16 words, the tokenizer has 20"):
        LanguageModeling(num_classes=20).run(make_model(16), block_batch(highest=16))


@torch.no_grad()
def losses(source, model, teacher, *, num_classes: int = 20) -> tuple[float, float]:
    task = LanguageModeling(num_classes=num_classes)
    reader = BatchBuilder(source, num_classes=num_classes)
    ids = torch.arange(len(source))
    batch = reader[ids, torch.zeros_like(ids)]
    items = task.items(batch)
    student, said = task.run(model, batch), task.run(teacher, batch)
    return (
        float(CrossEntropy()(Outputs(student.logits), None, items)),
        float(KD(1)(Outputs(student.logits), Outputs(said.logits), items)),
    )


def test_length_and_padding_change_nothing(teacher_path):
    model, teacher = make_model(24), make_causal(str(teacher_path)).eval()
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(2, 20, (n,), generator=generator).tolist() for n in (3, 9, 5)]
    alone = [losses(PaddedSource([d], 16, pad=0), model, teacher) for d in documents]
    tokens = [len(d) - 1 for d in documents]
    together = losses(PaddedSource(documents, 16, pad=1), model, teacher)
    for part in range(2):
        mean = sum(n * a[part] for n, a in zip(tokens, alone, strict=True)) / sum(tokens)
        assert together[part] == pytest.approx(mean, rel=1e-5)


def said(model, source: BlockSource):
    reader = BatchBuilder(source, num_classes=20)
    requests = in_order(len(reader), batch_size=2)
    return TASK.predict(model, (reader[r] for r in requests), torch.device("cpu"))


@torch.no_grad()
def test_perplexity_is_that_of_the_library(teacher_path):
    model = make_causal(str(teacher_path)).eval()
    tokens = torch.randint(0, 20, (41,), generator=torch.Generator().manual_seed(0))
    source = BlockSource(tokens, 8)
    found = said(model, source)
    total = 0.0
    for row in range(5):
        text = tokens[8 * row : 8 * row + 9]
        logits = model(input_ids=text[None, :-1]).logits[0, :, :20]
        total += float(torch.nn.functional.cross_entropy(logits, text[1:], reduction="sum"))
    perplexity, nll = TASK.validate(found)
    assert nll == pytest.approx(total / 40, rel=1e-5)
    assert perplexity == pytest.approx(math.exp(total / 40), rel=1e-5)
    assert float(TASK.scores(found).mean()) == pytest.approx(-nll, rel=1e-5)
    assert len(TASK.scores(found)) == 5


def test_a_network_agrees_with_itself_and_an_even_one_is_as_lost_as_can_be():
    source = BlockSource(torch.arange(41) % 20, 8)
    model = make_model(24)
    found = said(model, source)
    itself = TASK.evaluate(found, said(model, source))
    assert itself.agreement == 1
    assert itself.kl_to_teacher == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    even = TASK.evaluate(said(model, source))
    assert even.values["perplexity"] == pytest.approx(20, rel=1e-5)
    assert even.agreement is None


def test_a_network_that_gives_nan_is_named():
    model = make_model(24)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="LlamaForCausalLM gives NaN for sample 0"):
        said(model, BlockSource(torch.arange(41) % 20, 8))


def test_no_text_is_refused():
    with pytest.raises(DataError, match="the data set is empty"):
        TASK.predict(make_model(24), [], torch.device("cpu"))


def test_the_words_of_the_tests_are_as_many_as_the_task_says():
    assert len(make_tokenizer(WORDS)) == 20


def test_a_perplexity_that_no_number_holds_is_the_highest_that_can_be_averaged(tmp_path):
    class Sure(torch.nn.Module):
        """Always sure of the word that does not come."""

        def forward(self, input_ids):
            following = torch.roll(input_ids, -1, dims=1)
            return torch.nn.functional.one_hot((following + 1) % 20, 24) * 5000.0

    said = TASK.predict(Sure(), [block_batch()], torch.device("cpu"))
    evaluation = TASK.evaluate(said)
    found = evaluation.others["perplexity"]
    assert evaluation.nll > 4000
    assert found == pytest.approx(math.exp(300))
    assert math.isfinite(found**2)
    save_record(tmp_path / "evaluation.json", evaluation)
    assert load_record(tmp_path / "evaluation.json", Evaluation) == evaluation
    assert number(found) == "1.94e+130"
