"""Learning from a teacher that reads the text with another tokenizer."""

import math
from dataclasses import replace

import pytest
import tokenizers
import torch
import transformers
from tiny_language import make_model, save, sentences

from tutelage import chunks
from tutelage.config import build_job, read_recipe
from tutelage.data.loading import BatchBuilder
from tutelage.data.pairs import NOWHERE, PairedSource
from tutelage.data.pairs import pair_up as pair_plain_texts
from tutelage.data.plain import PlainText
from tutelage.doctor import PROBLEM, check
from tutelage.errors import ConfigError, DataError, SignalError
from tutelage.losses import KD, SpanLikelihood, UniversalLogitDistance
from tutelage.pipeline import run_job
from tutelage.tasks import LanguageModeling
from tutelage.tasks.other_tokenizer import OtherTokenizer
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch, HiddenStates, Outputs

pytestmark = pytest.mark.whole


def pair_up(document, own, other, length):
    return pair_plain_texts(document, PlainText(own, "own"), PlainText(other, "other"), length)


def letters_tokenizer():
    """Cuts words into letters: it ends a token at every character of a word."""
    letters = sorted(set("".join(sentences(50, 0)).replace(" ", "")))
    vocabulary = {letter: n for n, letter in enumerate(["<end>", "<unknown>", *letters])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Whitespace(),
            tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated"),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<end>", unk_token="<unknown>"
    )


@pytest.fixture(scope="session")
def letters_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    tokenizer = letters_tokenizer()
    return save(folder, make_model(len(tokenizer), layers=2), tokenizer)


@pytest.fixture
def words(teacher_path):
    return transformers.AutoTokenizer.from_pretrained(teacher_path)


def test_tokens_are_paired_where_both_end_at_the_same_character(words):
    pair = pair_up("the cat sees", own=letters_tokenizer(), other=words, length=20)
    assert len(pair.own) == 10
    assert len(pair.other) == 3
    nowhere = NOWHERE
    assert pair.rows == [nowhere, nowhere, 0, nowhere, nowhere, 1, *[nowhere] * 3, 2]
    back = pair_up("the cat sees", own=words, other=letters_tokenizer(), length=20)
    assert back.rows == [2, 5, 9]


def test_a_long_text_is_cut_for_both(words):
    pair = pair_up("the cat sees a fish", own=words, other=letters_tokenizer(), length=2)
    assert len(pair.own) == 2
    assert len(pair.other) == 2
    assert pair.rows == [NOWHERE, NOWHERE]


def paired_batch(words) -> Batch:
    documents = ["the cat sees a fish .", "a dog", "the large bird finds the tree ."]
    pairs = [pair_up(d, own=words, other=letters_tokenizer(), length=40) for d in documents]
    reader = BatchBuilder(PairedSource(pairs, "facts"), num_classes=20)
    ids = torch.arange(3)
    return reader[ids, torch.zeros_like(ids)]


def test_the_teacher_speaks_at_the_students_tokens(words, letters_path):
    from tutelage.models.causal import make_causal

    batch, model = paired_batch(words), make_causal(str(letters_path)).eval()
    task = OtherTokenizer(len(letters_tokenizer()))
    teacher = ModuleTeacher(model, task, chunk=2)
    found = teacher(batch).logits
    assert len(found) == len(task.items(batch).labels)
    with torch.no_grad():
        alone = model(input_ids=batch.inputs["teacher_ids"][1:2, :4]).logits[0]
    first = int(batch.inputs["counted"][0].sum())
    # The second text is "a dog": after its first word the teacher has read one letter.
    torch.testing.assert_close(found[first], alone[0, : task.num_classes])
    assert not found.isnan().any()


def test_ranks_are_compared_and_not_words():
    student = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log()
    teacher = torch.tensor([[0.5, 0.3, 0.2, 1e-9], [0.4, 0.3, 0.2, 0.1]]).log()
    ids = torch.arange(2)
    batch = Batch(torch.zeros(2, 1), None, ids, ids)
    loss = UniversalLogitDistance()
    values = [
        float(loss(Outputs(student[n : n + 1]), Outputs(teacher[n : n + 1]), batch)) for n in (0, 1)
    ]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[1] == pytest.approx(0.4 + 0.2 + 0.1 + 0.1, rel=1e-5)


def test_a_token_without_a_counterpart_adds_nothing_and_counts():
    student = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(2)
    batch = Batch(torch.zeros(2, 1), None, ids, ids)
    both = UniversalLogitDistance()(Outputs(student), Outputs(teacher), batch)
    alone = UniversalLogitDistance()(Outputs(student[:1]), Outputs(teacher[:1]), batch)
    teacher[1] = torch.nan
    half = UniversalLogitDistance()(Outputs(student), Outputs(teacher), batch)
    torch.testing.assert_close(half, alone / 2)
    assert half < both
    (gradient,) = torch.autograd.grad(half, student)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_texts_that_never_meet_are_refused():
    from tutelage.data.pairs import Pair

    with pytest.raises(DataError, match="never end a token at the same place"):
        PairedSource([Pair([1, 2], [1], [NOWHERE, NOWHERE])], "facts")


ACROSS = {"task_weight": 1.0, "terms": [{"loss": "universal_logit_distance", "weight": 1.0}]}


@pytest.mark.parametrize("loss", ["universal_logit_distance", "span_likelihood"])
def test_a_student_learns_across_tokenizers(write_recipe, letters_path, loss):
    path = write_recipe(
        student={"model": f"causal:{letters_path}"},
        objective={"task_weight": 1.0, "terms": [{"loss": loss, "weight": 1.0}]},
        cache=None,
        train={"epochs": 1, "batch_size": 4},
        optimizer={"kind": "adamw", "lr": 0.003},
    )
    job = build_job(read_recipe(path))
    assert not [finding for finding in check(job) if finding.level == PROBLEM]
    record = run_job(job).record
    assert any("end together at" in note for note in record.notes)
    distilled = record.arms[-1].last
    assert distilled.values["perplexity"] < 15  # of letters
    assert distilled.agreement is None
    assert record.teacher.last.values["perplexity"] < 4  # of words
    assert record.arms[-1].curve[0].train_parts[loss] > 0
    assert record.summary("distilled", "last").retention is None  # perplexities of other tokens
    page = (job.out / "report.html").read_text(encoding="utf-8")
    assert "perplexity kept" not in page
    assert "% of the teacher's" not in page


def test_the_teacher_tells_how_likely_the_text_is_up_to_each_token(words, teacher_path):
    """It reads words, the student letters: by hand, word by word."""
    from tutelage.models.causal import make_causal

    model = make_causal(str(teacher_path)).eval()
    documents = ["the cat sees a fish .", "a dog"]
    pairs = [pair_up(d, own=letters_tokenizer(), other=words, length=40) for d in documents]
    reader = BatchBuilder(PairedSource(pairs, "facts"), num_classes=20)
    batch = reader[torch.arange(2), torch.zeros(2, dtype=torch.long)]
    task = OtherTokenizer(20, tells_likelihood=True)
    told = ModuleTeacher(model, task, chunk=1)(batch).logits
    assert told.shape == (len(task.items(batch).labels), 1)
    place = 0
    for document, pair in zip(documents, pairs, strict=True):
        ids = torch.tensor([words(document)["input_ids"]])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0, :, :20].log_softmax(dim=-1)
        for row in pair.rows[:-1]:
            one = told[place, 0]
            place += 1
            if row == NOWHERE:
                assert one.isnan()
                continue
            wanted = sum(float(logs[n, ids[0, n + 1]]) for n in range(row))
            assert float(one) == pytest.approx(wanted, abs=1e-4)
    assert place == len(told)


SPANS = torch.tensor([[0.0], [torch.nan], [-1.5], [-2.0], [0.0], [torch.nan], [-0.7]])


def span_case(dtype=torch.float64):
    """Two texts: of four and of three of the student's tokens."""
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    labels = torch.randint(0, 5, (7,), generator=torch.Generator().manual_seed(1))
    texts = torch.tensor([3, 3, 3, 3, 8, 8, 8])
    return logits, Batch(torch.zeros(7, 1), labels, texts, torch.zeros_like(texts))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_spans_are_compared_by_the_likelihood_of_their_text(temperature):
    logits, batch = span_case()
    found = SpanLikelihood(temperature)(Outputs(logits), Outputs(SPANS), batch)
    logs = [
        float(row.log_softmax(-1)[label]) for row, label in zip(logits, batch.labels, strict=True)
    ]
    pairs = [(logs[0] + logs[1], -1.5), (logs[2], -0.5), (logs[4] + logs[5], -0.7)]
    wanted = []
    for own, told in pairs:
        q, p = math.exp(own / temperature), math.exp(told / temperature)
        wanted.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert float(found) == pytest.approx(temperature * sum(wanted) / 3, rel=1e-5)


def test_a_student_that_finds_every_span_as_likely_is_done():
    logits, batch = span_case()
    logs = torch.log_softmax(logits, dim=-1)[torch.arange(7), batch.labels]
    own = torch.stack([logs[:0].sum(), torch.tensor(torch.nan).double(), logs[:2].sum()])
    told = torch.cat([own, logs[:3].sum()[None], torch.tensor([0.0, torch.nan]).double()])
    told = torch.cat([told, logs[4:6].sum()[None]])[:, None]
    leaf = logits.clone().requires_grad_()
    value = SpanLikelihood()(Outputs(leaf), Outputs(told), batch)
    assert float(value.detach()) == pytest.approx(0, abs=1e-9)
    assert float(torch.autograd.grad(value, leaf)[0].abs().max()) < 1e-6


def test_spans_of_hidden_states_have_the_gradients_of_their_logits(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 10)
    monkeypatch.setattr(chunks, "LEAST_ROWS", 1)
    _, batch = span_case()
    values, weight = (
        torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).requires_grad_()
        for n in (7, 5)
    )
    hidden, found = HiddenStates(values, weight), []
    for student in (Outputs(hidden), Outputs(hidden.dense())):
        value = SpanLikelihood()(student, Outputs(SPANS), batch)
        found.append((value.detach(), *torch.autograd.grad(value, (values, weight))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_masked_tokens_and_texts_without_a_span_add_nothing():
    logits, batch = span_case()
    mask = torch.tensor([True] * 4 + [False] * 3)
    masked = SpanLikelihood()(Outputs(logits), Outputs(SPANS), replace(batch, mask=mask))
    alone = SpanLikelihood()(Outputs(logits[:4]), Outputs(SPANS[:4]), batch.pick(slice(0, 4)))
    torch.testing.assert_close(masked, alone)
    leaf = logits.clone().requires_grad_()
    nothing = SpanLikelihood()(Outputs(leaf), Outputs(SPANS * torch.nan), batch)
    assert float(nothing.detach()) == 0
    assert (torch.autograd.grad(nothing, leaf)[0] == 0).all()


def test_certain_spans_and_impossible_ones_stay_finite():
    _, batch = span_case()
    sure = (200 * torch.nn.functional.one_hot(batch.labels, 5)).double().requires_grad_()
    never = (-200 * torch.nn.functional.one_hot(batch.labels, 5)).double().requires_grad_()
    for leaf in (sure, never):
        for told in (SPANS, SPANS * 0, SPANS * 1000):
            value = SpanLikelihood()(Outputs(leaf), Outputs(told), batch)
            assert value.isfinite()
            assert torch.autograd.grad(value, leaf)[0].isfinite().all()


def test_a_teacher_that_tells_logits_is_refused():
    logits, batch = span_case()
    with pytest.raises(SignalError, match=r"'span_likelihood' needs labels, and a teacher"):
        SpanLikelihood()(Outputs(logits), Outputs(logits), batch)


def test_it_stands_alone_and_is_taught_live(write_recipe, letters_path):
    student = {"model": f"causal:{letters_path}"}
    for changes in (
        {},
        {"cache": None, "objective": {"terms": [*ACROSS["terms"], {"loss": "kd"}]}},
    ):
        path = write_recipe(**({"student": student, "objective": ACROSS} | changes))
        with pytest.raises(ConfigError, match="universal_logit_distance is for a teacher"):
            build_job(read_recipe(path))


def test_logit_losses_refuse_a_teacher_of_other_words():
    ids = torch.arange(2)
    batch = Batch(torch.zeros(2, 1), None, ids, ids)
    with pytest.raises(ValueError, match="same classes"):
        KD(1)(Outputs(torch.zeros(2, 5)), Outputs(torch.zeros(2, 7)), batch)
    assert LanguageModeling(5).items_per_sample is None


def test_tokens_that_texts_begin_with_stand_together():
    plain = letters_tokenizer()
    begins = letters_tokenizer()
    begins.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 0)]
    )
    pair = pair_up("cat", own=begins, other=begins, length=20)
    assert pair.own[0] == pair.other[0] == 0
    assert pair.rows == [0, 1, 2, 3]
    assert pair_up("cat", own=plain, other=begins, length=20).rows == [1, 2, 3]
    assert pair_up("cat", own=begins, other=plain, length=20).rows == [NOWHERE, 0, 1, 2]
    assert len(pair_up("cat", own=begins, other=begins, length=3).own) == 3
