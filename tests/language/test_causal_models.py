"""Students made from a language model, and the folder that they become."""

import pytest
import torch
from tiny_language import WORDS, make_model, make_tokenizer

from tutelage.errors import ConfigError, ModelError
from tutelage.models.causal import (
    cut_layers,
    make_causal,
    merged,
    save_causal,
)
from tutelage.models.readout import parts_of
from tutelage.models.shrink import layers_of

IDS = torch.arange(24).view(2, 12)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_a_student_has_the_layers_that_are_named(teacher_path):
    teacher, student = (
        make_causal(str(teacher_path)),
        make_causal(str(teacher_path), keep_layers=[1, 3]),
    )
    kept = [teacher.model.layers[1], teacher.model.layers[3]]
    for own, given in zip(layers_of(student)[1], kept, strict=True):
        for mine, theirs in zip(own.parameters(), given.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    assert student.config.num_hidden_layers == 2


def test_all_layers_kept_change_nothing(teacher_path):
    whole = make_causal(str(teacher_path), keep_layers=[0, 1, 2, 3])
    assert torch.equal(logits(whole), logits(make_causal(str(teacher_path))))


def test_a_cut_student_writes_with_and_without_kept_keys_and_values_alike(teacher_path):
    student = make_causal(str(teacher_path), keep_layers=[0, 3]).eval()
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 99}
    with_cache = student.generate(IDS[:, :3], use_cache=True, **settings)
    assert torch.equal(with_cache, student.generate(IDS[:, :3], use_cache=False, **settings))


@pytest.mark.parametrize("keep", [[], [3, 1], [0, 0], [0, 4], [-1, 0]])
def test_layers_that_are_not_there_are_refused(keep):
    with pytest.raises(ConfigError, match="keep_layers must be increasing numbers from 0 to 3"):
        cut_layers(make_model(24), keep)


def test_a_fresh_student_has_the_changed_widths(teacher_path):
    changes = {"hidden_size": 16, "num_hidden_layers": 1, "head_dim": 4}
    student = make_causal(str(teacher_path), is_fresh=True, changes=changes)
    assert logits(student).shape == (2, 12, 24)
    assert student.model.embed_tokens.weight.shape == (24, 16)


def test_changes_that_make_no_sense_are_refused(teacher_path):
    with pytest.raises(ConfigError, match=r"its configuration has no 'hiden_size'. Known: .*hid"):
        make_causal(str(teacher_path), is_fresh=True, changes={"hiden_size": 16})
    with pytest.raises(ConfigError, match=r"changes .* need is_fresh: true"):
        make_causal(str(teacher_path), changes={"hidden_size": 16})


def test_lora_trains_adapters_alone_and_folds_into_the_weights(teacher_path, tmp_path):
    pytest.importorskip("peft")
    student = make_causal(str(teacher_path), keep_layers=[0, 3], lora_rank=2)
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert parts_of(student) is not None
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    wanted = logits(student)
    assert not torch.allclose(wanted, logits(make_causal(str(teacher_path), keep_layers=[0, 3])))
    save_causal(student, tmp_path / "student", make_tokenizer(WORDS))
    torch.testing.assert_close(logits(make_causal(str(tmp_path / "student"))), wanted)
    torch.testing.assert_close(logits(merged(student)), wanted)
    torch.testing.assert_close(logits(student), wanted)


def test_a_saved_student_is_the_same_network(teacher_path, tmp_path):
    student = make_causal(str(teacher_path), keep_layers=[0, 3], mlp_width=24)
    save_causal(student, tmp_path / "student", make_tokenizer(WORDS))
    assert torch.equal(logits(make_causal(str(tmp_path / "student"))), logits(student))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_saved_as_it_was_the_embedding_or_one_of_its_own(tied, tmp_path):
    student = make_model(24, tied=tied)
    with torch.no_grad():
        student.lm_head.weight.mul_(2)
    save_causal(student, tmp_path, make_tokenizer(WORDS))
    again = make_causal(str(tmp_path))
    assert torch.equal(logits(again), logits(student))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert torch.equal(again.lm_head.weight, again.model.embed_tokens.weight) == tied


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"causal:.*cannot be loaded as a causal language model"):
        make_causal(str(tmp_path))
