"""Logits that a task takes are those of the model itself, whatever it does about its head."""

import copy

import pytest
import torch
from small_models import config_of, small

from tutelage.engine.generation import generate, greedy
from tutelage.losses import KD, CrossEntropy
from tutelage.models.readout import continues_with_cache, looks_ahead, parts_of
from tutelage.tasks import LanguageModeling
from tutelage.types import Batch, Outputs

# What each does: a product alone, a scale after it, a cap, a transform before it, a projection.
FEW = ["llama", "falcon_h1", "gemma2", "cohere", "granite", "bert", "opt", "mamba"]
EXACT = [
    *["apertus", "arcee", "bart", "biogpt", "bitnet", "bloom", "codegen", "cohere2", "ctrl"],
    *["diffllama", "doge", "electra", "exaone4", "falcon", "falcon_mamba", "gemma"],
    *["gemma3_text", "glm4", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granitemoe"],
    *["helium", "jetmoe", "lfm2", "llama4_text", "mamba2", "mistral", "mixtral", "mpt"],
    *["modernbert-decoder", "nanochat", "nemotron_h", "olmo2", "olmo_hybrid", "olmoe"],
    *["openai-gpt", "persimmon", "phi", "phi3", "prophetnet", "qwen2", "qwen2_moe", "qwen3"],
    *["roberta", "rwkv", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma"],
    *["xglm", "gpt2"],
]


def batch_of(tokens: torch.Tensor, *, is_padded: bool) -> Batch:
    ids, counted = tokens[:, :-1], torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    if is_padded:
        counted[1, 8:] = False
    inputs = {"input_ids": ids, "attention_mask": counted.long(), "counted": counted}
    number = torch.arange(len(tokens))
    return Batch(inputs, tokens[:, 1:], number, torch.zeros_like(number))


def tokens_of(model, length: int = 13) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(3, 64, (2, length), generator=draw)


def check_logits(model) -> None:
    tokens = tokens_of(model)
    for is_padded in (False, True):
        batch = batch_of(tokens, is_padded=is_padded)
        counted = batch.inputs["counted"]
        with torch.no_grad():
            found = LanguageModeling(64).run(model, batch).logits
            named = {n: batch.inputs[n] for n in ("input_ids", "attention_mask")}
            wanted = model(**named).logits[counted][:, :64]
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", FEW)
def test_logits_are_those_of_the_model_itself(kind):
    check_logits(small(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_logits_of_every_architecture_are_its_own(kind):
    model = small(kind)
    check_logits(model)
    prompts = tokens_of(model, 6)
    kept = generate(model, prompts, 4, greedy)
    whole = prompts
    with torch.no_grad():
        for _ in range(4):
            whole = torch.cat([whole, model(input_ids=whole).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(kept, whole)


def test_a_scale_and_a_cap_are_carried_and_anything_else_is_left_to_the_model():
    scaled, capped = parts_of(small("granite")), parts_of(small("gemma2"))
    assert (scaled.scale, scaled.cap) == (pytest.approx(0.125), None)
    assert (capped.scale, capped.cap) == (1.0, 3.0)
    assert parts_of(small("bert")) is None
    assert parts_of(torch.nn.Linear(2, 2)) is None


def test_a_cap_is_seen_before_the_logits_are_large_enough_to_meet_it():
    import transformers

    fresh = transformers.AutoModelForCausalLM.from_config(
        config_of("gemma2", final_logit_softcapping=30.0)
    )
    assert parts_of(fresh).cap == 30.0


def test_a_scale_that_is_trained_is_left_to_the_model():
    class Learned(type(small("llama"))):
        def forward(self, *args, **named):
            given = super().forward(*args, **named)
            given["logits"] = given.logits * self.factor
            return given

    model = small("llama")
    model.factor = torch.nn.Parameter(torch.tensor(2.0))
    model.__class__ = Learned
    assert parts_of(model) is None
    check_logits(model)


def test_measuring_leaves_no_trace():
    model = small("gemma2").train()
    before = torch.random.get_rng_state()
    parts_of(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with torch.inference_mode():
        assert parts_of(copy.deepcopy(model)) is not None


@pytest.mark.parametrize("kind", ["gemma2", "granite", "llama"])
def test_losses_in_chunks_have_the_gradients_of_the_models_own_logits(kind, monkeypatch):
    monkeypatch.setattr("tutelage.chunks.LEAST_ROWS", 5)
    monkeypatch.setattr("tutelage.chunks.CHUNK_NUMBERS", 1)
    model, task = small(kind), LanguageModeling(64)
    batch = batch_of(tokens_of(model), is_padded=False)
    teacher = Outputs(torch.randn(24, 64, generator=torch.Generator().manual_seed(1)))
    objective = 0.5 * CrossEntropy() + 0.5 * KD(temperature=2)
    found = []
    for outputs in (
        task.run(model, batch),
        Outputs(model(input_ids=batch.inputs["input_ids"]).logits.flatten(0, 1)),
    ):
        model.zero_grad()
        objective(outputs, teacher, task.items(batch)).total.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, wanted in found[1].items():
        torch.testing.assert_close(found[0][name], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "mamba", "falcon_h1", "lfm2", "rwkv", "openai-gpt"])
def test_models_of_every_kind_of_memory_write_what_they_hold_likeliest(kind):
    model = small(kind)
    prompts = tokens_of(model, 6)
    whole = prompts
    with torch.no_grad():
        for _ in range(4):
            whole = torch.cat([whole, model(input_ids=whole).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, prompts, 4, greedy), whole)


def test_a_memory_that_does_not_give_the_same_is_not_used():
    assert continues_with_cache(small("llama"))
    assert not continues_with_cache(small("openai-gpt"))


def test_a_network_that_sees_the_next_token_is_found():
    assert looks_ahead(small("bert", is_decoder=False))
    assert not looks_ahead(small("bert"))
    assert not looks_ahead(small("mamba"))
