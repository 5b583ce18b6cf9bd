"""From documents to blocks of tokens."""

import pytest
import torch
from tiny_language import WORDS, make_tokenizer, sentences, tokenizers

from tutelage.data.corpus import (
    BlockSource,
    PaddedSource,
    load_corpus,
    read_documents,
    tokenizer_fingerprint,
)
from tutelage.errors import ConfigError, DataError, ModelError, TutelageError
from tutelage.tasks import LanguageModeling
from tutelage.types import UNLABELLED, Batch


def test_every_token_is_a_label_once_and_follows_its_input():
    source = BlockSource(torch.arange(100, 150), 8)
    assert len(source) == 6
    inputs, labels = source.fetch(torch.arange(6))
    assert torch.equal(inputs["input_ids"].flatten(), torch.arange(100, 148))
    assert torch.equal(labels.flatten(), torch.arange(101, 149))
    assert inputs["counted"].all()


def test_other_tokens_or_another_tokenizer_is_another_source():
    tokens = torch.arange(50)
    changed = tokens.clone()
    changed[-1] = 0
    sources = [BlockSource(tokens, 8), BlockSource(changed, 8), BlockSource(tokens, 7)]
    sources.append(BlockSource(tokens, 8, tokenizer="another"))
    assert len({source.fingerprint for source in sources}) == 4
    assert BlockSource(tokens.clone(), 8).fingerprint == sources[0].fingerprint


def test_too_few_tokens_for_a_block_are_refused():
    with pytest.raises(DataError, match="The text has 8 tokens, a block needs 9"):
        BlockSource(torch.arange(8), 8)


def test_documents_are_cut_and_filled_up_on_the_right():
    source = PaddedSource([[5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [9], [1, 2, 3, 4, 5]], 4, pad=0)
    assert len(source) == 3  # one token alone predicts nothing
    assert source.num_cut == 1
    inputs, labels = source.fetch(torch.arange(2))
    assert inputs["input_ids"].tolist() == [[5, 6, 0, 0], [1, 2, 3, 4]]
    assert labels.tolist() == [[6, 7, UNLABELLED, UNLABELLED], [2, 3, 4, 5]]
    assert inputs["counted"].tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(inputs["attention_mask"].bool(), inputs["counted"])


class Placed(torch.nn.Module):
    """A network that learns a vector for every place, as GPT-2: a shift would spoil it."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(24, 8)
        self.places = torch.nn.Embedding(32, 8)

    def forward(self, input_ids, attention_mask):
        seen = self.words(input_ids) * self.places(torch.arange(input_ids.shape[1]))
        return (seen * attention_mask[..., None]).cumsum(dim=1) @ self.words.weight.T


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padding_side_changes_nothing_that_a_network_says(tmp_path, side):
    tokenizer = make_tokenizer(WORDS, pad="<pad>")
    tokenizer.padding_side = side
    tokenizer.save_pretrained(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["the cat sees a fish .", "a dog", *sentences(30, seed=0)]))
    settings = {"block_size": 16, "valid_tokens": 20, "test_tokens": 20, "is_packed": False}
    source = load_corpus(text, str(tmp_path), **settings).splits.train
    torch.manual_seed(0)
    model, task = Placed().eval(), LanguageModeling(21)
    together = task.run(model, batch_of(source, [0, 1, 2])).logits
    alone = [task.run(model, batch_of(source, [number])).logits for number in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def batch_of(source: PaddedSource, numbers: list[int]) -> Batch:
    ids = torch.tensor(numbers)
    inputs, labels = source.fetch(ids)
    return Batch(inputs, labels, ids, torch.zeros_like(ids))


def test_documents_that_predict_nothing_are_refused():
    with pytest.raises(DataError, match="No document has two tokens"):
        PaddedSource([[1], []], 4, pad=0)


def test_no_document_is_in_two_splits(tmp_path, teacher_path):
    documents = [f"{a} {b} {c} ." for a in WORDS[:9] for b in WORDS[:9] for c in WORDS[:9]]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents))
    corpus = load_corpus(path, str(teacher_path), block_size=5, valid_tokens=100, test_tokens=200)
    parts = []
    for source in (corpus.splits.train, corpus.splits.valid, corpus.splits.test):
        text = corpus.tokenizer.decode(source.tokens.tolist()).split("<end>")
        parts.append({part.strip() for part in text[:-1]})
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert len(corpus.splits.test) == 40
    again = load_corpus(path, str(teacher_path), block_size=5, valid_tokens=100, test_tokens=200)
    assert again.splits.train.fingerprint == corpus.splits.train.fingerprint


def test_empty_documents_are_left_out(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\nthe cat\n\n  \n\n\n\na dog\n\n")
    assert list(read_documents(path)) == ["the cat", "a dog"]
    path.write_text(" \n\n ")
    with pytest.raises(DataError, match="all documents are empty"):
        list(read_documents(path))


def test_all_kinds_of_files_and_folders_of_them_are_read(tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").write_text('{"body": "the cat"}\n\n{"body": "a dog", "more": 1}\n')
    (tmp_path / "b.txt").write_text("\ufeffa bird", encoding="utf-8")
    (tmp_path / "c.csv").write_text('body,other\n"a fish, red",1\n"",2\n')
    (tmp_path / "d.tsv").write_text("body\tother\na tree\t1\n")
    parquet.write_table(arrow.table({"body": ["a house"], "n": [1]}), tmp_path / "e.parquet")
    (tmp_path / "f.md").write_text("no text of ours")
    wanted = ["the cat", "a dog", "a bird", "a fish, red", "a tree", "a house"]
    assert list(read_documents(tmp_path, "body")) == wanted
    assert list(read_documents(tmp_path / "c.csv", "body")) == ["a fish, red"]


def test_all_parts_of_a_saved_data_set_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} text"], "n": [0]})
        for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert list(read_documents(tmp_path / "set")) == ["train text", "test text"]
    parts["train"].save_to_disk(tmp_path / "one")
    assert list(read_documents(tmp_path / "one")) == ["train text"]


BROKEN = [
    ("text.jsonl", '{"text": "a"}\n{"other": "b"}\n', r"line 2 .* 'text'"),
    ("text.csv", "body,n\nthe cat,1\n", r"Unknown column of .*text.csv \(data.text\) 'text'.*body"),
    ("text.csv", "text,n\nthe cat\n", r"line 2: 1 field, but the first line names 2"),
    ("text.parquet", "no parquet", r"text.parquet: cannot be read"),
    ("text.jsonl", "no json\n", "line 1 is no JSON object"),
    ("text.jsonl", '{"text": 3}\n', "line 1: 'text' holds no text"),
    ("text.txt", b"\xff\xfe\x00", "cannot be read as UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TutelageError, match=message):
        list(read_documents(path))


def test_a_path_without_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no text in it"):
        list(read_documents(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_documents(tmp_path / "nowhere"))


def test_more_tokens_than_there_are_is_refused(corpus_path, teacher_path):
    with pytest.raises(DataError, match=r"99,999 tokens asked for, but only [\d,]+ left"):
        load_corpus(corpus_path, str(teacher_path), block_size=8, test_tokens=99999)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path, corpus_path):
    with pytest.raises(ModelError, match=r"data\.tokenizer: .* cannot be loaded"):
        load_corpus(corpus_path, str(tmp_path), block_size=8)


def test_a_tokenizer_without_an_end_sign_is_refused(tmp_path, corpus_path):
    tokenizer = make_tokenizer(WORDS)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no end sign"):
        load_corpus(corpus_path, str(tmp_path), block_size=8)


def test_tokenizers_are_told_apart_by_words_and_rules():
    one, other = make_tokenizer(WORDS), make_tokenizer(WORDS)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    swapped = make_tokenizer([WORDS[1], WORDS[0], *WORDS[2:]])
    assert tokenizer_fingerprint(swapped) != tokenizer_fingerprint(one)


def test_documents_apart_are_samples_of_their_own(corpus_path, teacher_path):
    corpus = load_corpus(
        corpus_path,
        str(teacher_path),
        block_size=12,
        valid_tokens=100,
        test_tokens=100,
        is_packed=False,
    )
    assert corpus.block_size is None
    inputs, _ = corpus.splits.train.fetch(torch.arange(3))
    assert inputs["input_ids"].shape[1] <= 12
    assert any(
        "Documents truncated to 12 tokens (data.block_size): " in note for note in corpus.notes
    )


def beginning(tmp_path, template="<begin> $A"):
    """The tokenizer of tests, with a token that every text begins with."""
    tokenizer = make_tokenizer(["<begin>", *WORDS])
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    special = [("<begin>", 2), ("<end>", 0)]
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    tokenizer.save_pretrained(tmp_path / "begins")
    return tmp_path / "begins"


def load(path, tokenizer, **settings):
    sizes = {"block_size": 8, "valid_tokens": 16, "test_tokens": 32}
    return load_corpus(path, str(tokenizer), **sizes, **settings)


def test_blocks_and_documents_begin_as_the_tokenizer_begins_a_text(corpus_path, tmp_path):
    source = load(corpus_path, beginning(tmp_path)).splits.train
    inputs, labels = source.fetch(torch.arange(len(source)))
    ids = inputs["input_ids"]
    assert (ids[:, 0] == 2).all()
    assert (labels != 2).all()  # nothing that the tokenizer adds is to be predicted
    assert inputs["counted"].all()
    ends = labels[:, :-1] == 0
    assert ends.any()
    assert (ids[:, 1:][ends] == 2).all()
    assert torch.equal(ids[:, 1:][~ends], labels[:, :-1][~ends])
    assert torch.equal(labels.flatten(), source.tokens[: labels.numel()].long())


def test_documents_apart_begin_as_the_tokenizer_begins_a_text(corpus_path, tmp_path):
    source = load(corpus_path, beginning(tmp_path), is_packed=False).splits.train
    inputs, labels = source.fetch(torch.arange(8))
    assert (inputs["input_ids"][:, 0] == 2).all()
    assert (labels != 2).all()


def test_a_test_part_of_so_many_tokens_has_them_with_and_without_a_beginning(
    corpus_path, teacher_path, tmp_path
):
    begins, plain = load(corpus_path, beginning(tmp_path)), load(corpus_path, teacher_path)
    assert len(begins.splits.test) == len(plain.splits.test) == 4
    assert begins.splits.test.fingerprint != plain.splits.test.fingerprint


def test_blocks_that_begin_are_another_source():
    tokens = torch.arange(50)
    begins = BlockSource(tokens, 8, begin=7, end=0)
    assert begins.fingerprint != BlockSource(tokens, 8).fingerprint
    assert len(BlockSource(torch.arange(8), 8, begin=7, end=0)) == 1
    with pytest.raises(DataError, match="The text has 7 tokens, a block needs 8"):
        BlockSource(torch.arange(7), 8, begin=7, end=0)


def test_several_tokens_before_a_text_are_refused(corpus_path, tmp_path):
    tokenizer = beginning(tmp_path, "<begin> <end> $A")
    with pytest.raises(DataError, match="sets 2 tokens before a text"):
        load(corpus_path, tokenizer)


def test_a_document_that_spells_the_end_sign_goes_on(tmp_path, teacher_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(["the cat <end> sees a fish"] * 40))
    corpus = load(path, teacher_path)
    labels = corpus.splits.train.tokens
    assert (labels == 0).sum() <= len(labels) // 6
    assert any("spell a control token" in note for note in corpus.notes)
