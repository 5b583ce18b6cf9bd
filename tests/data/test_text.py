import json

import pytest
import torch
from texts import save_tokenizer, snippets, write_csv

from tutelage.data import tokenization
from tutelage.data.loading import BatchBuilder
from tutelage.data.text import load_text
from tutelage.data.token_labels import load_words
from tutelage.data.tokenization import Tokenizing
from tutelage.data.tokens import TokenSource
from tutelage.errors import DataError, ModelError, UnknownNameError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.types import UNLABELLED, VALID_MASK

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def folder(tmp_path):
    write_csv(tmp_path / "train.csv", snippets(40))
    write_csv(tmp_path / "test.csv", snippets(12, 100))
    return tmp_path


def everything(source):
    return source.fetch(torch.arange(len(source)))


def test_texts_are_cut_into_tokens_with_labels(folder, tokenizer):
    splits = load_text(folder, tokenizer)
    assert splits.class_names == ("negative", "positive")
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (36, 4, 12)
    inputs, labels = everything(splits.test)
    assert labels.tolist() == [1, 0] * 6
    assert inputs["input_ids"][:, 0].unique().tolist() == [2]  # [CLS]
    ends = inputs["attention_mask"].sum(dim=1) - 1
    assert inputs["input_ids"].gather(1, ends[:, None]).unique().tolist() == [3]  # [SEP]
    assert (inputs["input_ids"] == 0).eq(inputs["attention_mask"] == 0).all()
    assert splits.inputs.known["vocab_size"] == 42
    assert splits.notes == ()


def test_a_batch_is_as_long_as_its_longest_text(folder, tokenizer):
    source = load_text(folder, tokenizer).test
    lengths = source.lengths
    short = int(lengths.argmin())
    assert source.fetch(torch.tensor([short]))[0]["input_ids"].shape == (1, int(lengths.min()))
    both = source.fetch(torch.tensor([short, int(lengths.argmax())]))[0]["input_ids"]
    assert both.shape == (2, int(lengths.max()))


def test_texts_are_filled_up_on_the_side_that_the_tokenizer_names(folder, tmp_path):
    left = str(save_tokenizer(tmp_path / "left", padding_side="left"))
    inputs, _ = everything(load_text(folder, left).test)
    assert inputs["attention_mask"][:, -1].all()
    assert (inputs["input_ids"][:, -1] == 3).all()
    right = load_text(folder, str(save_tokenizer(tmp_path / "right"))).test
    assert right.fingerprint != load_text(folder, left).test.fingerprint
    kept = inputs["input_ids"][inputs["attention_mask"].bool()]
    assert torch.equal(kept, right.tokens.long())


def test_what_is_longer_is_cut_keeps_its_end_and_is_counted(folder, tokenizer):
    splits = load_text(folder, tokenizer, max_length=4)
    inputs, _ = everything(splits.train)
    assert inputs["input_ids"].shape[1] == 4
    full = inputs["attention_mask"].sum(dim=1) == 4
    assert (inputs["input_ids"][full, 3] == 3).all()
    (note,) = splits.notes
    assert note.startswith("Texts truncated to 4 tokens (data.max_length): ")
    with pytest.raises(DataError, match=r"max_length: 2 leaves no room .* adds 2 tokens"):
        load_text(folder, tokenizer, max_length=2)


def test_texts_that_are_cut_a_few_at_a_time_are_the_same(folder, tokenizer, monkeypatch):
    wanted = load_text(folder, tokenizer, max_length=6)
    given = []
    cut = Tokenizing._cut
    monkeypatch.setattr(
        Tokenizing, "_cut", lambda self, texts: given.append(len(texts)) or cut(self, texts)
    )
    monkeypatch.setattr(tokenization, "AT_ONCE", 5)
    splits = load_text(folder, tokenizer, max_length=6)
    assert given == [*[5] * 7, 1, 4, 5, 5, 2]
    assert splits.train.fingerprint == wanted.train.fingerprint
    assert splits.test.fingerprint == wanted.test.fingerprint
    assert splits.notes == wanted.notes


def test_texts_without_labels_join_the_training_texts_alone(folder, tokenizer):
    write_csv(folder / "more.csv", [("w1 w2 film",), ("very good",)], header="text")
    (folder / "lines.txt").write_text("w3 w4\n\nw5\n")
    transfer = [folder / "more.csv", folder / "lines.txt"]
    splits = load_text(folder, tokenizer, transfer=transfer)
    assert len(splits.train) == 40
    assert len(splits.labelled) == 36
    assert splits.train.is_partly_labelled
    batch = BatchBuilder(splits.train, num_classes=2)[torch.tensor([0, 39]), torch.tensor([0, 0])]
    assert batch.is_labelled.tolist() == [True, False]
    assert batch.labels[1] == UNLABELLED
    labelled = BatchBuilder(splits.labelled, num_classes=2)[torch.tensor([3]), torch.tensor([0])]
    assert labelled.is_labelled is None
    # What is trained on the labelled texts alone stays whatever texts join them.
    assert splits.labelled.fingerprint == load_text(folder, tokenizer).train.fingerprint
    (note,) = load_text(folder, tokenizer, transfer=transfer, max_length=4).notes
    assert f"of {40 + len(splits.valid) + len(splits.test)} (" in note


def test_numbers_name_classes_by_size_and_words_by_letter(tmp_path, tokenizer):
    rows = [(f"w{n}", str(n % 12)) for n in range(30)]
    path = write_csv(tmp_path / "numbers.csv", rows)
    names = load_text(path, tokenizer).class_names
    assert names == tuple(str(n) for n in range(12))


def test_every_form_of_folder_is_read(tmp_path, tokenizer):
    rows = snippets(20)
    for number, (text, label) in enumerate(rows):
        for part in ("plain", "parted/train", "parted/test"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.txt").write_text(text)
    assert len(load_text(tmp_path / "plain", tokenizer).test) == 2
    assert len(load_text(tmp_path / "parted", tokenizer).test) == 20
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match=r"no texts\. Allowed: files named train"):
        load_text(tmp_path / "void", tokenizer)


def test_a_saved_data_set_is_read_with_its_class_names(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "y": datasets.ClassLabel(names=["poor", "fine"])}
    )
    rows = {"sentence": [text for text, _ in snippets(20)], "y": [1, 0] * 10}
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "validation": part, "test": part}).save_to_disk(
        str(tmp_path / "saved")
    )
    splits = load_text(tmp_path / "saved", tokenizer, text_column="sentence", label_column="y")
    assert splits.class_names == ("fine", "poor")
    assert everything(splits.test)[1].tolist() == [0, 1] * 10


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([("w1", "a"), ("", "b"), ("w3", "a")], r"train\.csv, row 3: the text is empty"),
        ([("w1", "a"), ("w2", ""), ("w3", "b")], r"train\.csv, row 3: the label is empty"),
        ([("w1", "a"), ("w2", "a"), ("w3", "a")], r"all training samples have the label 'a'"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_error_with_its_place(tmp_path, tokenizer, train, message):
    for part in ("valid", "test"):
        write_csv(tmp_path / f"{part}.csv", [("w1", "a"), ("w2", "a")])
    write_csv(tmp_path / "train.csv", train)
    with pytest.raises(DataError, match=message):
        load_text(tmp_path, tokenizer)


def test_a_class_that_is_new_in_the_test_part_is_refused(folder, tokenizer):
    write_csv(folder / "test.csv", [("w1", "positive"), ("w2", "neutral")])
    with pytest.raises(DataError, match=r"test\.csv, row 3: the label 'neutral' does not occur"):
        load_text(folder, tokenizer)


def test_unknown_columns_paths_and_tokenizers_say_what_to_do(folder, tokenizer, monkeypatch):
    with pytest.raises(
        UnknownNameError, match=r"\(data\.text_column\) 'sentence'. Known: label, t"
    ):
        load_text(folder, tokenizer, text_column="sentence")
    with pytest.raises(DataError, match=r"data\.transfer: nowhere\.txt: no such file or folder"):
        load_text(folder, tokenizer, transfer=["nowhere.txt"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"data\.tokenizer: /no/where: cannot be loaded"):
        load_tokenizer("/no/where")
    with pytest.raises(DataError, match=r"a share of 0\.001 of 12 rows is 0"):
        load_text(folder / "test.csv", tokenizer, test_fraction=0.001)


def tagged(path, rows):
    lines = [json.dumps({"words": w.split(), "tags": t.split()}) for w, t in rows]
    path.write_text("\n".join(lines) + "\n")


def test_the_first_token_of_each_word_counts_and_has_its_class(tmp_path, tokenizer):
    rows = [("films very w1", "N R N"), ("plays good", "V A"), ("w2", "N")] * 10
    for part in ("train", "valid", "test"):
        tagged(tmp_path / f"{part}.jsonl", rows)
    splits = load_words(tmp_path, tokenizer, text_column="words", label_column="tags")
    assert splits.class_names == ("A", "N", "R", "V")
    inputs, labels = splits.test.fetch(torch.tensor([0, 2]))
    # [CLS] film ##s very w1 [SEP], and [CLS] w2 [SEP] with three places filled up
    assert inputs[VALID_MASK].int().tolist() == [[0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0]]
    assert labels.tolist() == [[-100, 1, -100, 2, 1, -100], [-100, 1, -100, -100, -100, -100]]
    short = load_words(tmp_path, tokenizer, text_column="words", label_column="tags", max_length=4)
    inputs, labels = short.test.fetch(torch.tensor([0]))
    assert inputs["input_ids"].tolist()[0][-1] == 3
    assert labels.tolist() == [[-100, 1, -100, -100]]


def test_words_and_labels_of_different_number_are_refused(tmp_path, tokenizer):
    rows = [("w1 w2", "N N"), ("w1 w2", "N")]
    for part in ("train", "valid", "test"):
        tagged(tmp_path / f"{part}.jsonl", rows)
    with pytest.raises(DataError, match=r"train\.jsonl, row 2: 2 words, but 1 label"):
        load_words(tmp_path, tokenizer, text_column="words", label_column="tags")


def test_sources_of_other_tokens_or_labels_have_other_fingerprints():
    ids = [[1, 2, 3], [4]]
    prints = {
        TokenSource(ids).fingerprint,
        TokenSource([[1, 2], [3, 4]]).fingerprint,
        TokenSource(ids, [0, 1]).fingerprint,
        TokenSource(ids, [1, 0]).fingerprint,
        TokenSource(ids, pad_id=1).fingerprint,
        TokenSource(ids, pads_left=True).fingerprint,
    }
    assert len(prints) == 6
    assert TokenSource(ids).fingerprint == TokenSource(ids).fingerprint


def test_labels_that_are_numbers_are_one_class_in_every_spelling(tmp_path, tokenizer):
    rows = [f"w{number % 7},{number % 12}.0" for number in range(48)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "test.csv").write_text("text,label\nw1,11\nw2, 3 \n")
    splits = load_text(tmp_path, tokenizer)
    assert splits.class_names == tuple(map(str, range(12)))
    assert splits.test.fetch(torch.arange(2))[1].tolist() == [11, 3]


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("[1, 0]", "row 3: the label is a list"),
        ('"[1, 0]"', r"row 3: the label '\[1, 0\]' is a list that was written as text"),
        ("null", "row 3: the label is empty"),
        ("NaN", "row 3: the label is empty"),
        ("-1", "data.label_column: -1 means 'no label'"),
        ("-100", "data.label_column: -100 means 'no label'"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_its_row(tmp_path, tokenizer, label, match):
    lines = [f'{{"text": "w{number}", "label": {number % 2}}}' for number in range(9)]
    lines[2] = f'{{"text": "w2", "label": {label}}}'
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=match):
        load_text(path, tokenizer, valid_fraction=0.2, test_fraction=0.2)


@pytest.mark.parametrize(
    ("words", "labels", "match"),
    [
        ("['a', 'b']", "[0, 1]", "row 2: .*is a list that was written as text"),
        ("a b", "[0, 1]", "row 2: .*is a list that was written as text"),
        ("a b", "0 nan", "row 2: the label is empty"),
    ],
)
def test_lists_saved_as_text_are_no_words(tmp_path, tokenizer, words, labels, match):
    lines = ["words,labels", f'"{words}","{labels}"', *['"a b","0 1"'] * 9]
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=match):
        load_words(tmp_path, tokenizer)
