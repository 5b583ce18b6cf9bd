import pytest
import torch
from texts import save_tokenizer, save_transformer

from tutelage.errors import ConfigError, ModelError, UnknownNameError
from tutelage.models.calling import call
from tutelage.models.hf import input_embeddings
from tutelage.models.load import make_model
from tutelage.models.origin import origin_of

pytest.importorskip("transformers")

IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_transformer(tmp_path_factory.mktemp("bert"))


def made(folder, seed=0, **settings):
    torch.manual_seed(seed)
    return make_model(f"hf:{folder}", settings, num_classes=3, task="classification").eval()


def test_a_folder_gives_a_network_with_a_head_for_the_task(folder):
    model = made(folder)
    assert call(model, INPUTS).shape == (2, 3)
    tagger = make_model(f"hf:{folder}", {}, num_classes=5, task="token_classification").eval()
    assert call(tagger, INPUTS).shape == (2, 4, 5)


def test_the_seed_draws_the_head_and_leaves_the_loaded_weights(folder):
    one, same, other = made(folder, 1), made(folder, 1), made(folder, 2)
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(
        one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight
    )


def test_a_fresh_network_may_be_narrower(folder):
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16}
    model = made(folder, fresh=True, **settings)
    assert model.bert.embeddings.word_embeddings.weight.shape == (42, 8)
    assert call(model, INPUTS).shape == (2, 3)


def test_frozen_embeddings_are_not_trained(folder):
    model = made(folder, freeze_embeddings=True)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["bert.embeddings.word_embeddings.weight"]


def test_an_unknown_setting_says_which_are_known(folder):
    with pytest.raises(UnknownNameError, match=r"'hidden_sise'\. Did you mean 'hidden_size'"):
        made(folder, hidden_sise=8)


def test_a_folder_without_a_network_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"model 'hf:.*': making it with"):
        made(save_tokenizer(tmp_path))


def test_another_tokenizer_is_told_before_it_reads_other_words(folder, tmp_path):
    other = save_tokenizer(tmp_path / "other", words=["film", *[f"x{n}" for n in range(35)]])
    facts = {"num_classes": 3, "vocab_size": 42}
    make_model(f"hf:{folder}", {}, tokenizer=str(folder), **facts)
    with pytest.raises(ConfigError, match="its tokenizer numbers the tokens otherwise"):
        make_model(f"hf:{folder}", {}, tokenizer=str(other), **facts)
    with pytest.raises(
        ConfigError, match=r"it knows 42 tokens, but the data's tokenizer .* has 50"
    ):
        make_model(f"hf:{folder}", {}, tokenizer=str(other), **{**facts, "vocab_size": 50})


def test_token_vectors_keep_the_distances_that_their_width_can_hold(folder):
    full = made(folder).bert.embeddings.word_embeddings.weight.detach()
    whole, narrow = input_embeddings(str(folder), 16), input_embeddings(str(folder), 4)
    torch.testing.assert_close(
        torch.cdist(whole, whole), torch.cdist(full, full), atol=5e-3, rtol=0
    )
    # The best plane in the sense of least squares: what is left out is what numpy's svd leaves out.
    values = torch.linalg.svdvals(full - full.mean(dim=0))
    assert float(narrow.square().sum()) == pytest.approx(float(values[:4].square().sum()), rel=1e-4)
    with pytest.raises(ConfigError, match="width: 20 is more than the 16"):
        input_embeddings(str(folder), 20)


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """A classifier of three classes whose folder names them."""
    place = tmp_path_factory.mktemp("tuned")
    model = made(folder)
    model.config.id2label = {0: "positive", 1: "neutral", 2: "negative"}
    model.save_pretrained(place)
    save_tokenizer(place)
    return place


def test_a_tuned_folder_brings_its_head_and_the_names_of_its_classes(tuned, folder):
    origin = origin_of(made(tuned, seed=5))
    assert origin.class_names == ("positive", "neutral", "negative")
    assert not origin.drawn
    assert "classifier.weight" in origin_of(made(folder)).drawn
    assert origin_of(made(folder, fresh=True)).drawn


def test_a_head_of_another_task_or_count_is_not_taken_for_the_tasks_own(tuned):
    tagger = make_model(f"hf:{tuned}", {}, num_classes=3, task="token_classification")
    assert origin_of(tagger).drawn
    with pytest.raises(ConfigError, match=r"its head has 3 classes \(positive, .* the data have 7"):
        make_model(f"hf:{tuned}", {}, num_classes=7, task="classification")


@pytest.mark.parametrize("num_classes", [3, 7])
def test_a_new_head_is_drawn_on_the_folders_body(tuned, num_classes):
    old = made(tuned)
    new = make_model(f"hf:{tuned}", {}, num_classes=num_classes, task="classification", head="new")
    assert new.classifier.weight.shape[0] == num_classes
    assert not torch.equal(new.classifier.weight[0], old.classifier.weight[0])
    assert origin_of(new).drawn == ("classifier.weight", "classifier.bias")
    for name, value in new.bert.state_dict().items():
        assert torch.equal(value, old.bert.state_dict()[name])
