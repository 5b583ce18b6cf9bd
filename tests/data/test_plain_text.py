"""Texts become their own tokens, within what the tokenizer sets around a text, and no longer."""

import pytest
import torch

from tutelage.data.plain import PlainText
from tutelage.data.tokenization import Tokenizing
from tutelage.errors import DataError

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
from tokenizers import models, pre_tokenizers, processors  # noqa: E402

CONTROL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
FRAMES = {
    "both": ("[CLS] $A [SEP]", 1, 1),
    "begin": ("[CLS] $A", 1, 0),
    "end": ("$A [SEP]", 0, 1),
    "two": ("[CLS] [CLS] $A [SEP]", 2, 1),
    "none": (None, 0, 0),
}


def word_piece():
    vocabulary = {**CONTROL, "good": 4, "film": 5, "[": 6, "se": 7, "##p": 8, "]": 9, "sep": 10}
    model = models.WordPiece(vocabulary, unk_token="[UNK]")
    return model, pre_tokenizers.BertPreTokenizer()


def word_level():
    model = models.WordLevel({**CONTROL, "good": 4, "film": 5}, unk_token="[UNK]")
    return model, pre_tokenizers.WhitespaceSplit()  # finds [SEP] among its words


def byte_pairs():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**CONTROL, **{letter: 4 + n for n, letter in enumerate(letters)}}
    return models.BPE(vocabulary, []), pre_tokenizers.ByteLevel(add_prefix_space=False)


def unigram():
    pieces = [(name, 0.0) for name in CONTROL]  # as converters of SentencePiece write them
    letters = [(letter, -3.0) for letter in "[]SEPCLdfgilmo▁"]
    return models.Unigram([*pieces, *letters], unk_id=1), pre_tokenizers.Metaspace()


KINDS = [word_piece, word_level, byte_pairs, unigram]


def make(kind, frame: str = "both", **options: object):
    model, splitter = kind()
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = splitter
    if FRAMES[frame][0]:
        special = [("[CLS]", 2), ("[SEP]", 3)]
        plain.post_processor = processors.TemplateProcessing(
            single=FRAMES[frame][0], pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
        )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    options = {"pad_token": "[PAD]"} | options
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names, **options)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [4, 16])
def test_a_text_is_as_long_as_allowed_whatever_it_ends_in(kind, frame, length):
    tokenizer = make(kind, frame)
    cutter = Tokenizing(tokenizer, length, "it")
    _, before, after = FRAMES[frame]
    texts = ["good film " * 9 + "日 " * 5, "日 " * 30, "good"]
    for text, ids in zip(texts, cutter.tokenize(texts), strict=True):
        whole = tokenizer(text)["input_ids"]
        kept = len(whole) - after if len(whole) <= length else length - after
        assert list(ids) == whole[:kept] + whole[len(whole) - after :]
        assert list(ids)[:before] == [2] * before
    assert 2 <= cutter.num_cut <= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_token_that_a_text_spells_is_plain_text(kind):
    cutter = Tokenizing(make(kind), 64, "it")
    (ids,) = cutter.tokenize(["good [SEP] film [PAD] [CLS]"])
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {0, 2, 3} & set(ids[1:-1])
    assert "Texts that spell a control token of the tokenizer: 1 " in " ".join(cutter.notes())


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_control_tokens_are_what_the_tokenizer_makes_of_them(kind):
    tokenizer = make(kind)
    cutter = Tokenizing(tokenizer, 64, "it")
    texts = ["good film", "film", "日 good"]
    assert [list(ids) for ids in cutter.tokenize(texts)] == tokenizer(texts)["input_ids"]
    assert cutter.notes() == ()


def test_letters_that_are_unknown_are_one_unknown_token():
    plain = PlainText(make(word_level), "it")
    assert plain.tokens(["good [SEP] film"]) == [[4, 1, 5]]


def test_the_end_of_a_text_is_kept_where_the_tokenizer_says_so():
    cutter = Tokenizing(make(word_level, truncation_side="left"), 4, "it")
    assert list(cutter.tokenize(["good good film film"])[0]) == [2, 5, 5, 3]


@pytest.mark.parametrize("length", [1, 2])
def test_no_room_for_a_text_is_refused(length):
    with pytest.raises(DataError, match=rf"max_length: {length} leaves no room .* adds 2 tokens"):
        Tokenizing(make(word_piece), length, "it")
    assert list(Tokenizing(make(word_piece), 3, "it").tokenize(["good film"])[0]) == [2, 4, 3]


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_filled_up_without_a_pad_token_too(side):
    cutter = Tokenizing(make(word_level, pad_token=None, padding_side=side), 8, "it")
    source = cutter.source(["good film", "film"], torch.tensor([0, 1]))
    inputs, _ = source.fetch(torch.tensor([0, 1]))
    assert inputs["attention_mask"].sum(dim=1).tolist() == [4, 3]
    assert inputs["input_ids"][0].tolist() == [2, 4, 5, 3]


def test_a_text_without_any_token_is_refused():
    cutter = Tokenizing(make(word_level, "none"), 8, "it")
    with pytest.raises(DataError, match="finds no token in the text"):
        cutter.tokenize(["  "])


@pytest.mark.parametrize("kind", [word_level, word_piece])
def test_words_that_spell_a_control_token_keep_their_classes(kind, tmp_path):
    from tutelage.data.token_labels import load_words

    make(kind).save_pretrained(tmp_path / "tokenizer")
    rows = ['{"words": ["good", "[SEP]", "film"], "labels": ["a", "b", "c"]}'] * 20
    (tmp_path / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")
    train = load_words(tmp_path / "data.jsonl", str(tmp_path / "tokenizer"), max_length=4).train
    inputs, labels = train.fetch(torch.tensor([0]))
    assert inputs["input_ids"].shape == (1, 4)
    assert inputs["input_ids"][0, [0, -1]].tolist() == [2, 3]
    assert inputs["input_ids"][0, 2] != 3
    assert labels[0].tolist() == [-100, 0, 1, -100]
