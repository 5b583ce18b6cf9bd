"""From documents to blocks of tokens."""

import pytest
import torch
from tiny_language import WORDS, make_tokenizer

from tutelage.data.corpus import (
    BlockSource,
    PaddedSource,
    load_corpus,
    load_tokenizer,
    read_documents,
    tokenizer_fingerprint,
)
from tutelage.errors import ConfigError, DataError, TutelageError
from tutelage.types import UNLABELLED


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
    with pytest.raises(DataError, match="There are 8 tokens, a block needs 9"):
        BlockSource(torch.arange(8), 8)


@pytest.mark.parametrize(("side", "place"), [("right", slice(0, 2)), ("left", slice(2, 4))])
def test_documents_are_cut_and_filled_up_on_the_side_that_is_asked_for(side, place):
    source = PaddedSource([[5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [9]], 4, pad=0, side=side)
    assert len(source) == 2  # one token alone predicts nothing
    inputs, labels = source.fetch(torch.arange(2))
    assert inputs["input_ids"][1].tolist() == [1, 2, 3, 4]
    assert labels[1].tolist() == [2, 3, 4, 5]
    assert inputs["input_ids"][0, place].tolist() == [5, 6]
    assert labels[0, place].tolist() == [6, 7]
    assert int(inputs["counted"][0].sum()) == 2
    assert (labels[0] == UNLABELLED).sum() == 2
    assert torch.equal(inputs["attention_mask"].bool(), inputs["counted"])


def test_documents_that_predict_nothing_are_refused():
    with pytest.raises(DataError, match="No document has two tokens"):
        PaddedSource([[1], []], 4, pad=0)


def test_no_document_is_in_two_splits(tmp_path, teacher_path):
    documents = [f"{a} {b} {c} ." for a in WORDS[:9] for b in WORDS[:9] for c in WORDS[:9]]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents))
    corpus = load_corpus(path, str(teacher_path), block=5, valid_tokens=100, test_tokens=200)
    parts = []
    for source in (corpus.splits.train, corpus.splits.valid, corpus.splits.test):
        text = corpus.tokenizer.decode(source.tokens.tolist()).split("<end>")
        parts.append({part.strip() for part in text[:-1]})
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert len(corpus.splits.test) == 40
    again = load_corpus(path, str(teacher_path), block=5, valid_tokens=100, test_tokens=200)
    assert again.splits.train.fingerprint == corpus.splits.train.fingerprint


def test_empty_documents_are_left_out(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\nthe cat\n\n  \n\n\n\na dog\n\n")
    assert list(read_documents(path)) == ["the cat", "a dog"]
    path.write_text(" \n\n ")
    with pytest.raises(DataError, match="all documents are empty"):
        list(read_documents(path))


def test_json_lines_and_folders_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "the cat"}\n\n{"body": "a dog"}\n')
    (tmp_path / "b.txt").write_text("a bird")
    assert list(read_documents(tmp_path, "body")) == ["the cat", "a dog", "a bird"]


BROKEN = [
    ("text.jsonl", '{"text": "a"}\n{"other": "b"}\n', r"line 2 .* 'text'"),
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
    with pytest.raises(DataError, match=r"99999 tokens are asked for, \d+ are left"):
        load_corpus(corpus_path, str(teacher_path), block=8, test_tokens=99999)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_an_end_sign_is_refused(tmp_path, corpus_path):
    tokenizer = make_tokenizer(WORDS)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no end sign"):
        load_corpus(corpus_path, str(tmp_path), block=8)


def test_tokenizers_are_told_apart_by_words_and_rules():
    one, other = make_tokenizer(WORDS), make_tokenizer(WORDS)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    swapped = make_tokenizer([WORDS[1], WORDS[0], *WORDS[2:]])
    assert tokenizer_fingerprint(swapped) != tokenizer_fingerprint(one)


def test_documents_apart_are_samples_of_their_own(corpus_path, teacher_path):
    corpus = load_corpus(
        corpus_path, str(teacher_path), block=12, valid_tokens=100, test_tokens=100, is_packed=False
    )
    assert corpus.block is None
    inputs, _ = corpus.splits.train.fetch(torch.arange(3))
    assert inputs["input_ids"].shape[1] <= 12
