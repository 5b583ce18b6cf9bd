"""Learning from a teacher that reads the text with another tokenizer."""

import pytest
import tokenizers
import torch
import transformers
from tiny_language import make_model, save, sentences

from tutelage.config import build_job, read_recipe
from tutelage.data.loading import Reader
from tutelage.data.pairs import NOWHERE, PairedSource, pair_up
from tutelage.doctor import PROBLEM, check
from tutelage.errors import ConfigError, DataError
from tutelage.losses import KD, UniversalLogitDistance
from tutelage.pipeline import run_job
from tutelage.tasks import LanguageModeling
from tutelage.tasks.other_tokenizer import OtherTokenizer
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch, Outputs


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
    reader = Reader(PairedSource(pairs, "facts"), num_classes=20)
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


def test_a_student_learns_across_tokenizers(write_recipe, letters_path):
    path = write_recipe(
        student={"model": f"causal:{letters_path}"},
        objective=ACROSS,
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
    assert record.arms[-1].curve[0].train_parts["universal_logit_distance"] > 0


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
