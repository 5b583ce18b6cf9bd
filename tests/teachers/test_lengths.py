import pytest
import torch
from texts import save_transformer

from tutelage.inputs import TextInputs
from tutelage.models.load import make_model
from tutelage.tasks import Classification
from tutelage.tasks.token_classification import TokenClassification
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.lengths import STEP, by_length
from tutelage.types import Batch

pytest.importorskip("transformers")

LENGTHS = [3, 20, 7, 33, 16, 17, 5, 40, 9, 31, 2]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = save_transformer(tmp_path_factory.mktemp("bert"))
    torch.manual_seed(0)
    model = make_model(
        f"hf:{folder}", {"max_position_embeddings": 48, "fresh": True}, num_classes=3
    )
    return ModuleTeacher(model, Classification(3), chunk=32)


def batch_of(numbers, longest=None, pads_left=False):
    lengths = [LENGTHS[n] for n in numbers]
    longest = longest or max(lengths)
    ids, mask = torch.zeros(2, len(numbers), longest, dtype=torch.long)
    for row, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
        generator = torch.Generator().manual_seed(number)
        place = slice(longest - length, None) if pads_left else slice(length)
        ids[row, place] = torch.randint(5, 42, (length,), generator=generator)
        mask[row, place] = 1
    sample_ids = torch.tensor(numbers)
    return Batch({"input_ids": ids, "attention_mask": mask}, None, sample_ids, 0 * sample_ids)


def test_a_text_has_the_same_bits_whatever_batch_it_comes_in(teacher):
    wanted = torch.cat([teacher(batch_of([number])).logits for number in range(len(LENGTHS))])
    for numbers in (range(len(LENGTHS)), [7, 0, 5], [10, 9, 8, 3, 2, 1, 0]):
        given = teacher(batch_of(list(numbers), longest=44)).logits
        assert torch.equal(given, wanted[list(numbers)])


def test_texts_are_best_asked_about_in_great_number(teacher):
    assert teacher.best_size(batch_of([0])) > 100
    of_tokens = ModuleTeacher(teacher.model, TokenClassification(3), chunk=32)
    assert of_tokens.best_size(batch_of([0])) == 32


def test_a_text_is_what_the_network_says_of_it_alone(teacher):
    batch = batch_of([3])
    alone = teacher.model(**batch.inputs).logits
    torch.testing.assert_close(teacher(batch).logits, alone.detach())


@pytest.mark.parametrize("pads_left", [False, True])
def test_parts_hold_every_text_once_in_its_own_length(pads_left):
    batch = batch_of(list(range(len(LENGTHS))), pads_left=pads_left)
    seen = []
    for rows, length, part in by_length(batch, TextInputs()):
        seen += rows.tolist()
        assert length == len(part.inputs["input_ids"][0])
        ids, mask = part.inputs["input_ids"], part.inputs["attention_mask"].bool()
        for row, number in enumerate(rows.tolist()):
            whole = batch.inputs["attention_mask"][number].bool()
            assert torch.equal(ids[row][mask[row]], batch.inputs["input_ids"][number][whole])
            assert ids.shape[1] == -(-LENGTHS[number] // STEP) * STEP
        assert part.sample_ids.tolist() == rows.tolist()
    assert sorted(seen) == list(range(len(LENGTHS)))
