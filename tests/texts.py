"""Small tokenizers, transformers and data sets of texts, made on the spot."""

from pathlib import Path

import pytest

WORDS = [f"w{number}" for number in range(30)] + ["good", "bad", "film", "very", "play", "ing"]


def save_tokenizer(folder: Path, *, padding_side: str = "right", words: list[str] = WORDS) -> Path:
    """A word-piece tokenizer that knows a few words, with [CLS] and [SEP] around a text."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words, "##s"])}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side=padding_side,
        **dict(zip(names, special, strict=True)),
    )
    fast.save_pretrained(folder)
    return folder


def save_transformer(
    folder: Path, *, layers: int = 4, width: int = 16, positions: int = 40, seed: int = 0
) -> Path:
    """A random BERT with the tokenizer beside it."""
    import torch

    transformers = pytest.importorskip("transformers")
    save_tokenizer(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS) + 1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def snippets(count: int, first: int = 0) -> list[tuple[str, str]]:
    """Texts of different lengths that are good or bad by one of their words."""
    rows = []
    for number in range(first, first + count):
        label = ("good", "bad")[number % 2]
        filler = [f"w{(number * 7 + place * 3) % 30}" for place in range(1 + number % 6)]
        filler.insert(number % len(filler) if filler else 0, label)
        rows.append((" ".join(filler), {"good": "positive", "bad": "negative"}[label]))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def save_sentence_encoder(folder: Path, **settings: int) -> Path:
    """The random BERT as a folder of sentence-transformers: mean of the tokens, at unit length."""
    library = pytest.importorskip("sentence_transformers")
    modules = library.sentence_transformer.modules
    save_transformer(folder / "bert", **settings)
    transformer = modules.Transformer(str(folder / "bert"))
    pooling = modules.Pooling(transformer.get_embedding_dimension())
    whole = library.SentenceTransformer(
        modules=[transformer, pooling, modules.Normalize()], device="cpu"
    )
    whole.save(str(folder), create_model_card=False)
    return folder
