"""Losses between transformers: released numbers, slow loops, padding, and bad settings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.errors import ConfigError, ShapeError, UnknownNameError
from tutelage.losses import (
    DistilBERTCosine,
    MiniLMv2,
    TinyBERTAttention,
    TinyBERTEmbedding,
    TinyBERTHidden,
)
from tutelage.losses.relations import log_relations, scores, scores_distances
from tutelage.losses.tokens import token_mask
from tutelage.losses.transformer import squared_distances
from tutelage.objective import DryRun
from tutelage.types import VALID_MASK, Batch, Outputs

FOLDER = Path(__file__).parents[1] / "golden"
CASES = json.loads((FOLDER / "features.json").read_text())
with np.load(FOLDER / "features.npz", allow_pickle=False) as file:
    ARRAYS = {name: torch.from_numpy(values) for name, values in file.items()}

LENGTHS = (5, 2, 4)
ATTENTION = ("query", "key", "value")


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batch_of(lengths: tuple[int, ...], longest: int | None = None, **others: Tensor) -> Batch:
    places = torch.arange(longest or max(lengths))
    mask = (places < torch.tensor(lengths)[:, None]).long()
    ids = torch.arange(len(lengths))
    return Batch({"input_ids": mask, "attention_mask": mask}, None, ids, ids, **others)


def tokens(width: int, seed: int, longest: int = max(LENGTHS)) -> Tensor:
    return noise(len(LENGTHS), longest, width, seed=seed)


def features(names, width: int, seed: int) -> dict[str, Tensor]:
    return {name: tokens(width, seed + n) for n, name in enumerate(names)}


def attention(layer: str, width: int, seed: int) -> dict[str, Tensor]:
    return features([f"{layer}.{part}" for part in ATTENTION], width, seed)


def outputs(by_layer: dict[str, Tensor]) -> Outputs:
    return Outputs(noise(len(next(iter(by_layer.values()))), 2), by_layer)


def situation(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of a narrow student of two layers and of a wider teacher."""
    ours = features(["a", "b", "emb"], 4, seed) | attention("att", 4, seed + 10)
    theirs = features(["x", "y", "emb"], 6, seed + 20) | attention("ATT", 6, seed + 30)
    return ours, theirs | features(["p", "q"], 4, seed + 40) | attention("att", 4, seed + 50)


LOSSES = {
    "hidden": lambda: TinyBERTHidden(["a", "b"], ["p", "q"]),
    "hidden of another width": lambda: TinyBERTHidden(["a", "b"], ["x", "y"]),
    "embedding": lambda: TinyBERTEmbedding("emb"),
    "cosine": lambda: DistilBERTCosine("b", "q"),
    "cosine of another width": lambda: DistilBERTCosine("b", "y"),
    "attention": lambda: TinyBERTAttention("att", heads=2),
    "relations": lambda: MiniLMv2("att", "ATT", heads=2),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def made(name: str):
    torch.manual_seed(3)
    loss = LOSSES[name]()
    ours, theirs = situation()
    loss.setup(DryRun(outputs(ours), outputs(theirs)))
    return loss.double()


def gradient_of(loss, ours, theirs, batch) -> tuple[Tensor, dict[str, Tensor]]:
    ours = {layer: feature.clone().requires_grad_() for layer, feature in ours.items()}
    value = loss(outputs(ours), outputs(theirs), batch)
    value.backward()
    return value.detach(), {
        layer: torch.zeros_like(f) if f.grad is None else f.grad for layer, f in ours.items()
    }


@every_loss
def test_what_stands_in_padding_changes_nothing(name):
    loss, batch = made(name), batch_of(LENGTHS)
    is_padding = ~batch.inputs["attention_mask"].bool()
    ours, theirs = situation()
    wanted, gradients = gradient_of(loss, ours, theirs, batch)
    for side in (ours, theirs):
        for feature in side.values():
            feature[is_padding] = math.nan
    found, others = gradient_of(loss, ours, theirs, batch)
    assert found == wanted > 0
    for layer, gradient in gradients.items():
        assert torch.equal(others[layer], gradient)
        assert (gradient[is_padding] == 0).all()


@every_loss
def test_more_padding_changes_nothing(name):
    loss = made(name)
    ours, theirs = situation()
    wanted = loss(outputs(ours), outputs(theirs), batch_of(LENGTHS))
    longer = [
        {layer: torch.cat([f, torch.ones(len(f), 3, f.shape[2])], dim=1) for layer, f in s.items()}
        for s in (ours, theirs)
    ]
    found = loss(*(outputs(side) for side in longer), batch_of(LENGTHS, longest=max(LENGTHS) + 3))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@every_loss
def test_each_text_counts_alike_however_long_and_masked_texts_not_at_all(name):
    loss = made(name)
    ours, theirs = situation()

    def of_rows(rows: list[int]) -> Tensor:
        sides = [{layer: f[rows] for layer, f in side.items()} for side in (ours, theirs)]
        lengths = tuple(LENGTHS[row] for row in rows)
        batch = batch_of(lengths, longest=max(LENGTHS))
        return loss(*(outputs(side) for side in sides), batch).detach()

    alone = [of_rows([row]) for row in range(3)]
    torch.testing.assert_close(of_rows([0, 1, 2]), sum(alone) / 3)
    masked = batch_of(LENGTHS, mask=torch.tensor([True, False, True]))
    found = loss(outputs(ours), outputs(theirs), masked).detach()
    torch.testing.assert_close(found, (alone[0] + alone[2]) / 2)
    nothing = batch_of(LENGTHS, mask=torch.zeros(3, dtype=torch.bool))
    assert float(loss(outputs(ours), outputs(theirs), nothing).detach()) == 0


def test_in_tasks_of_tokens_a_text_counts_where_one_of_its_items_does():
    counted = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    inputs = {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), VALID_MASK: counted}
    ids = torch.tensor([0, 0, 1])
    batch = Batch(inputs, None, ids, ids, mask=torch.tensor([False, False, True]))
    found = token_mask(batch, 4, torch.device("cpu"))
    assert found.tolist() == [[False] * 4, [True, True, True, False]]
    assert torch.equal(inputs[VALID_MASK], torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]]))


def test_hidden_states_and_attention_are_those_of_the_released_tinybert():
    case = CASES["tinybert_layers_f64"]
    arrays = [ARRAYS[f"input/{k}_{w}_f64"] for k in ("hidden", "attention_scores") for w in WHOSE]
    hidden, theirs, attention_scores, their_scores = arrays
    hidden = hidden.clone().requires_grad_()
    found = squared_distances(tuple(hidden), (theirs[0], theirs[2], theirs[4])).mean()
    assert float(found.detach()) == pytest.approx(case["components"]["rep_loss"], rel=1e-12)
    found.backward()
    for layer in range(3):
        wanted = ARRAYS[f"gradient/tinybert_layers_f64/hid_{layer}"]
        torch.testing.assert_close(hidden.grad[layer], wanted, rtol=1e-12, atol=1e-15)
    # Theirs has 0 for pairs with padding and counts them in the mean; ours takes masks. So each
    # text is compared by itself, and weighed by the share of its pairs.
    hides = attention_scores[0, :, 0, 0] > -100
    ours = attention_scores.where(attention_scores > -100, 0.0).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for layer, teacher in enumerate((their_scores[1], their_scores[3])):
        for row in range(2):
            distances = scores_distances(
                ours[layer, row : row + 1],
                teacher[row : row + 1].where(teacher[row : row + 1] > -100, 0.0),
                hides[row : row + 1],
            )
            total = total + distances.mean() * hides[row].double().mean() / 2
    assert float(total.detach()) == pytest.approx(case["components"]["att_loss"], rel=1e-12)
    total.backward()
    for layer in range(2):
        wanted = ARRAYS[f"gradient/tinybert_layers_f64/att_{layer}"]
        torch.testing.assert_close(ours.grad[layer], wanted, rtol=1e-12, atol=1e-15)


WHOSE = ("student", "teacher")


def test_the_cosine_is_that_of_the_released_distilbert():
    # Theirs is a mean over the batch's tokens: so each token is given as a text of its own.
    case = "distilbert_cos_only_f64"
    is_token = ARRAYS["input/attention_mask"].bool()
    ours, theirs = (
        ARRAYS[f"input/hidden_{w}_f64"][at] for w, at in zip(WHOSE, (2, 4), strict=True)
    )
    student = ours.clone().requires_grad_()
    by_token = [side.flatten(0, 1)[:, None] for side in (student, theirs)]
    ids = torch.arange(len(by_token[0]))
    batch = Batch(torch.zeros(len(ids), 1), None, ids, ids, mask=is_token.flatten())
    loss = DistilBERTCosine("h")
    found = loss(*(outputs({"h": side}) for side in by_token), batch)
    assert float(found.detach()) == pytest.approx(CASES[case]["components"]["loss_cos"], rel=1e-12)
    found.backward()
    wanted = ARRAYS[f"gradient/{case}/hidden"]
    torch.testing.assert_close(student.grad, wanted, rtol=1e-10, atol=1e-14)


def test_attention_is_a_slow_loop_over_heads_and_pairs():
    ours, theirs = situation()
    found = made("attention")(outputs(ours), outputs(theirs), batch_of(LENGTHS))
    texts = []
    for row, length in enumerate(LENGTHS):
        gaps = []
        for head in (slice(0, 2), slice(2, 4)):
            for one in range(length):
                for other in range(length):
                    s, t = (
                        float(side["att.query"][row, one, head] @ side["att.key"][row, other, head])
                        for side in (ours, theirs)
                    )
                    gaps.append(((s - t) / math.sqrt(2)) ** 2)
        texts.append(sum(gaps) / len(gaps))
    assert float(found) == pytest.approx(sum(texts) / 3, rel=1e-12)


def test_relations_are_a_slow_loop_over_parts_heads_and_tokens():
    ours, theirs = situation()
    found = made("relations")(outputs(ours), outputs(theirs), batch_of(LENGTHS))

    def relation(values: Tensor, one: int) -> list[float]:
        products = [float(values[one] @ other) / math.sqrt(values.shape[1]) for other in values]
        parts = [math.exp(product) for product in products]
        return [part / sum(parts) for part in parts]

    texts = []
    for row, length in enumerate(LENGTHS):
        total = 0.0
        for part in ATTENTION:
            for head in range(2):
                s = ours[f"att.{part}"][row, :length, 2 * head : 2 * head + 2]
                t = theirs[f"ATT.{part}"][row, :length, 3 * head : 3 * head + 3]
                for one in range(length):
                    pairs = zip(relation(t, one), relation(s, one), strict=True)
                    total += sum(p * math.log(p / q) for p, q in pairs) / 2 / length
        texts.append(total)
    assert float(found) == pytest.approx(sum(texts) / 3, rel=1e-10)


def test_relations_are_distributions_over_the_tokens_that_count():
    mask = batch_of(LENGTHS).inputs["attention_mask"].bool()
    related = log_relations(tokens(4, 1), 2, mask).exp()
    torch.testing.assert_close(related.sum(dim=-1), torch.ones(3, 2, 5, dtype=torch.float64))
    assert (related.masked_select(~mask[:, None, None, :].expand_as(related)) == 0).all()


def test_scores_are_the_attention_of_torch_before_softmax():
    query, key, value = (tokens(6, seed) for seed in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(x.unflatten(-1, (3, 2)).transpose(1, 2) for x in (query, key, value))
    )
    weights = scores(query, key, 3).exp()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    found = weights @ value.unflatten(-1, (3, 2)).transpose(1, 2)
    torch.testing.assert_close(found, wanted)


def test_a_projection_is_made_only_where_widths_differ():
    assert not list(made("hidden").parameters())
    assert [tuple(p.shape) for p in made("hidden of another width").parameters()] == [
        (6, 4), (6,), (6, 4), (6,),
    ]  # fmt: skip


def test_layers_without_tokens_are_refused_before_training():
    flat = {"a": noise(3, 4), "b": tokens(4, 1)}
    with pytest.raises(ShapeError, match=r"tinybert_hidden: layers must give tokens.*\(3, 4\)"):
        TinyBERTHidden("a").setup(DryRun(outputs(flat), outputs(flat)))
    longer = {"b": noise(3, 9, 4)}
    with pytest.raises(ShapeError, match="as many in both networks"):
        DistilBERTCosine("b").setup(DryRun(outputs(flat), outputs(longer)))


def test_heads_that_do_not_divide_a_width_are_refused_before_training():
    ours, theirs = (outputs(side) for side in situation())
    for loss in (TinyBERTAttention("att", heads=3), MiniLMv2("att", heads=3)):
        with pytest.raises(ConfigError, match=r"att\.query is 4 wide, which 3 heads cannot share"):
            loss.setup(DryRun(ours, theirs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MiniLMv2("a", heads=0), "heads must be a whole number of 1 or more, got 0"),
        (lambda: TinyBERTAttention("a", parts=["q"]), r"parts must be 2 names, as \[query, key\]"),
        (lambda: MiniLMv2("a", parts="query"), r"parts must be 3 names.*got \['query'\]"),
        (lambda: TinyBERTHidden(["a", "b"], ["a"]), "go in pairs, got 2"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_part_of_attention_names_what_there_is():
    from tutelage.models.taps import tapped

    network = torch.nn.ModuleDict({"q_lin": torch.nn.Linear(2, 2)})
    (layer, *_) = TinyBERTAttention("att", heads=1).student_layers
    with (
        pytest.raises(UnknownNameError, match=r"Unknown layer.*'att\.query'.*Known: att"),
        tapped(torch.nn.ModuleDict({"att": network}), [layer]),
    ):
        pass
