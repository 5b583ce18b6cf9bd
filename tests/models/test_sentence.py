"""Sentence encoders, whole, with some of their layers, and as a table of tokens."""

import pytest
import torch
import torch.nn.functional as F
from texts import save_sentence_encoder, save_tokenizer, snippets
from torch import nn

from tutelage.errors import ConfigError, ModelError
from tutelage.losses.simcse import Twice
from tutelage.models.load import make_model
from tutelage.models.sentence import StaticEncoder, save_encoder, sentence, static

library = pytest.importorskip("sentence_transformers")
TEXTS = [text for text, _ in snippets(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_sentence_encoder(tmp_path_factory.mktemp("encoder"), layers=3, width=12))


@pytest.fixture(scope="module")
def original(folder):
    return library.SentenceTransformer(folder, device="cpu")


def batch(original, texts=TEXTS):
    cut = original.tokenizer(texts, padding=True, return_tensors="pt")
    return {name: cut[name] for name in ("input_ids", "attention_mask")}


def encoded(folder, texts=TEXTS):
    whole = library.SentenceTransformer(str(folder), device="cpu")
    return whole.encode(texts, convert_to_tensor=True, show_progress_bar=False)


def test_an_encoder_says_what_sentence_transformers_says(folder, original):
    model = make_model(f"sentence:{folder}")
    assert not model.training
    torch.testing.assert_close(model(**batch(original)), encoded(folder))


def test_layers_are_kept_by_number_or_by_count(folder, original):
    by_number = sentence(folder, keep_layers=[0, 2])
    by_count = sentence(folder, num_layers=2)
    layers = original[0].auto_model.encoder.layer
    kept = by_number.encoder[0].auto_model.encoder.layer
    assert len(kept) == 2
    assert torch.equal(kept[1].output.dense.weight, layers[2].output.dense.weight)
    said = by_number(**batch(original))
    torch.testing.assert_close(said, by_count(**batch(original)))
    assert not torch.allclose(said, encoded(folder), atol=1e-2)


def test_a_written_student_loads_in_sentence_transformers(folder, original, tmp_path):
    student = sentence(folder, keep_layers=[0, 2])
    with torch.no_grad():  # as training would
        student.encoder[0].auto_model.embeddings.LayerNorm.bias.add_(0.1)
    save_encoder(Twice(student), tmp_path / "student")
    torch.testing.assert_close(encoded(tmp_path / "student"), student(**batch(original)))


def test_a_written_table_loads_in_sentence_transformers(folder, original, tmp_path):
    student = static(folder, width=5)
    with torch.no_grad():  # as training would
        student.turn.weight.add_(0.1 * torch.randn_like(student.turn.weight))
        student.heights.weight[10:].mul_(2)
    save_encoder(student, tmp_path / "student")
    long = [" ".join(TEXTS) * 3]  # nothing is cut
    for texts in (TEXTS, long):
        found = encoded(tmp_path / "student", texts)
        torch.testing.assert_close(found, student.cpu()(**batch(original, texts)))


def test_other_networks_are_not_written(tmp_path):
    with pytest.raises(ModelError, match="Linear: only sentence:NAME and static:NAME are written"):
        save_encoder(nn.Linear(2, 2), tmp_path / "student")


def test_a_table_begins_with_what_the_encoder_says_of_tokens(folder, original):
    """Against a slow loop, and scikit-learn's principal components."""
    from sklearn.decomposition import PCA

    tokens = range(len(original.tokenizer))
    rows = []
    for token in tokens:
        ids = torch.tensor([[2, token, 3]])  # [CLS], [SEP]
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        rows.append(original(features)["token_embeddings"].mean(dim=1)[0].detach())
    vectors = torch.stack(rows)
    plain = static(folder, width=4, rarity=None).folded
    expected = torch.tensor(PCA(4).fit_transform(vectors.numpy()))
    torch.testing.assert_close(plain.abs(), expected.abs(), atol=1e-4, rtol=1e-3)
    harmonic = sum(1 / (rank + 2) for rank in tokens)
    weights = [1e-2 / (1e-2 + 1 / (rank + 2) / harmonic) for rank in tokens]
    weighed = static(folder, width=4, rarity=1e-2).folded
    torch.testing.assert_close(weighed, plain * torch.tensor(weights)[:, None])


def test_a_table_gives_the_mean_of_what_counts():
    table = torch.randn(6, 3)
    student = StaticEncoder(table, ignored=[0, 5])
    ids = torch.tensor([[5, 1, 2, 0], [3, 3, 4, 4], [5, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    said = student(ids, mask).detach()
    expected = torch.stack([table[1] + table[2], table[3]])
    torch.testing.assert_close(said[:2], F.normalize(expected, dim=1))
    assert not said[2].any()  # no token counts


def test_weights_and_map_belong_to_the_table():
    table, axes = torch.randn(6, 3), torch.randn(3, 2)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1, 3.0])
    student = StaticEncoder(table, [0], axes, weights)
    ids, mask = torch.tensor([[1, 2, 4]]), torch.ones(1, 3, dtype=torch.long)
    mean = (0.5 * table[1] + 2 * table[2] + 0.1 * table[4]) / 3
    torch.testing.assert_close(student(ids, mask), F.normalize(mean @ axes, dim=0)[None])
    plain = StaticEncoder(student.folded, [0])
    torch.testing.assert_close(plain(ids, mask), student(ids, mask))


def test_only_training_drops(folder, original):
    dropping = sentence(folder, dropout=0.5)
    inputs = batch(original)
    assert torch.equal(dropping(**inputs), dropping(**inputs))
    dropping.train()
    assert not torch.equal(dropping(**inputs), dropping(**inputs))
    steady = sentence(folder, dropout=0.0).train()
    assert torch.equal(steady(**inputs), steady(**inputs))


def test_frozen_embeddings_stay(folder):
    model = sentence(folder, freeze_embeddings=True)
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert len(frozen) == 1
    assert frozen[0].endswith("word_embeddings.weight")
    table = static(folder, freeze_embeddings=True, width=4)
    assert [n for n, value in table.named_parameters() if not value.requires_grad] == [
        "table.weight"
    ]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("sentence", {"keep_layers": [3]}, r"keep_layers: BertModel has the layers 0 to 2"),
        ("sentence", {"keep_layers": [0], "num_layers": 1}, "keep_layers or num_layers, not both"),
        ("sentence", {"mlp_width": 25}, r"settings.mlp_width must be from 1 to 24, got 25"),
        ("sentence", {"dropout": 1.0}, r"settings.dropout must be 0 or more and below 1, got 1.0"),
        ("sentence", {"max_length": 41}, "data.max_length: 41 is more than the 40 tokens"),
        ("sentence", {"vocab_size": 99}, r"model 'sentence:.*it knows 42 tokens, .* has 99"),
        ("static", {"width": 13}, r"width must lie between 1 and the encoder's 12, got 13"),
        ("static", {"rarity": 0.0}, "rarity must lie between 0 and 1, got 0.0"),
        ("static", {"vocab_size": 99}, r"model 'static:.*it knows 42 tokens, .* has 99"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(folder, model, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_model(f"{model}:{folder}", settings)


def test_another_tokenizer_is_refused(folder, tmp_path):
    other = save_tokenizer(tmp_path / "other", words=["other", "words"])
    with pytest.raises(ConfigError, match="its tokenizer numbers the tokens otherwise"):
        make_model(f"sentence:{folder}", {"tokenizer": str(other), "vocab_size": 8})


def test_what_is_no_encoder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"model 'sentence:.*nothing' cannot be loaded"):
        sentence(str(tmp_path / "nothing"))


def test_a_table_is_no_encoder_with_layers(folder, tmp_path):
    save_encoder(static(folder, width=3), tmp_path / "table")
    with pytest.raises(ModelError, match="its first part is a StaticEmbedding, not a transformer"):
        sentence(str(tmp_path / "table"))
