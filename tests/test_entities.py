"""Entity F1, against seqeval 1.2.2 (its default mode) and against a reading token by token."""

import pytest
import torch

from tutelage.entities import EntityF1, are_bio
from tutelage.errors import UnknownNameError
from tutelage.tasks import TokenClassification

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
# Labels and predictions of twelve texts, and what seqeval makes of all and of all but each.
TEXTS = [
    ([2, 0, 4, 2, 2, 2], [3, 0, 4, 3, 2, 2]),
    ([2, 0, 2, 4, 2, 3, 3, 0, 3], [2, 0, 2, 3, 2, 3, 3, 3, 3]),
    ([1, 4, 4, 0, 0, 0, 4, 1, 2, 0, 2, 1], [1, 4, 4, 0, 4, 0, 4, 4, 4, 0, 2, 1]),
    ([0, 0, 2, 2, 2, 1, 0, 4, 0, 1, 1, 0], [0, 3, 2, 2, 2, 1, 2, 4, 0, 1, 3, 0]),
    ([0, 0, 4, 0, 4, 4, 1], [0, 0, 4, 0, 4, 4, 4]),
    ([1, 3, 0, 0, 4, 2, 2], [1, 3, 0, 0, 4, 2, 2]),
    ([1, 3, 1, 3, 3, 0, 0, 3], [2, 3, 1, 3, 3, 0, 4, 3]),
    ([0, 4, 4, 3, 0, 2, 2, 0, 0], [0, 4, 4, 3, 1, 2, 1, 0, 0]),
    ([4, 1, 0, 0, 2, 0], [4, 1, 0, 0, 2, 0]),
    ([0, 3, 0, 1, 1, 1, 1, 4, 0], [0, 4, 3, 1, 1, 1, 1, 4, 4]),
    ([4, 4, 4, 4, 0, 0, 0, 4], [4, 4, 3, 4, 0, 0, 0, 4]),
    ([2, 1, 4], [2, 1, 4]),
]
F1 = 0.7407407407407408
WITHOUT = [
    0.772277227723,
    0.709677419355,
    0.75,
    0.762886597938,
    0.757281553398,
    0.72,
    0.715789473684,
    0.752475247525,
    0.725490196078,
    0.736842105263,
    0.757281553398,
    0.725490196078,
]
MEASURE = EntityF1(NAMES)


def tensors(texts=TEXTS):
    """Scores, labels and the text of each token."""
    labels = torch.tensor([tag for gold, _ in texts for tag in gold])
    picked = torch.tensor([tag for _, given in texts for tag in given])
    ids = torch.tensor([number for number, (gold, _) in enumerate(texts) for _ in gold])
    return torch.nn.functional.one_hot(picked, len(NAMES)).float(), labels, ids


def spans(tags):
    """Entities of one text, read token by token: type, first and last token."""
    found, begun, before = [], None, "O"
    for place, tag in enumerate([*(NAMES[tag] for tag in tags), "O"]):
        kind = before[2:]
        if begun is not None and (tag == "O" or tag[0] == "B" or tag[2:] != kind):
            found.append((kind, begun, place - 1))
            begun = None
        if begun is None and tag != "O":
            begun = place
        before = tag
    return set(found)


def test_it_is_what_seqeval_says():
    assert MEASURE.value(*tensors()) == pytest.approx(F1)


def test_it_is_what_reading_token_by_token_says():
    pairs = [(spans(gold), spans(given)) for gold, given in TEXTS]
    right = sum(len(gold & given) for gold, given in pairs)
    all_of_both = sum(len(gold) + len(given) for gold, given in pairs)
    assert MEASURE.value(*tensors()) == pytest.approx(2 * right / all_of_both)


def test_pseudo_values_leave_whole_texts_out():
    without = torch.tensor(WITHOUT, dtype=torch.float64)
    wanted = F1 + 11 * (without.mean() - without)
    torch.testing.assert_close(MEASURE.per_sample(*tensors()), wanted)


def test_an_entity_does_not_run_on_into_the_next_text():
    scores, labels, _ = tensors([([1, 2, 2, 2], [1, 2, 2, 2])])
    assert MEASURE.value(scores, labels, torch.tensor([0, 0, 1, 1])) == 1
    assert int(MEASURE.terms(scores, labels, torch.tensor([0, 0, 1, 1]))[:, 1].sum()) == 2


def test_nothing_predicted_is_0():
    _, labels, ids = tensors()
    outside = torch.nn.functional.one_hot(torch.zeros_like(labels), 5).float()
    assert MEASURE.value(outside, labels, ids) == 0


@pytest.mark.parametrize(
    ("names", "is_bio"),
    [
        (NAMES, True),
        (("O", "B-PER"), True),
        (("B-PER", "I-PER"), False),
        (("O", "noun"), False),
        (("O", "B-"), False),
        (("O",), False),
        ((), False),
    ],
)
def test_bio_tags_are_known_by_their_names(names, is_bio):
    assert are_bio(names) is is_bio


def test_entities_lead_where_labels_are_bio_tags_unless_another_metric_is_chosen():
    assert TokenClassification(5, class_names=NAMES).metric.name == "entity_f1"
    assert TokenClassification(5, "macro_f1", class_names=NAMES).metric.name == "macro_f1"
    assert TokenClassification(5).metric.name == "accuracy"
    with pytest.raises(UnknownNameError, match="Unknown metric 'entity_f1'"):
        TokenClassification(5, "entity_f1")
