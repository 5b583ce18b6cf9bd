"""Text that networks write, and students that learn from it."""

import pytest
import torch
import yaml
from tiny_language import make_model

from tutelage.config import build_job, read_recipe
from tutelage.data.corpus import BlockSource
from tutelage.data.loading import BatchBuilder
from tutelage.engine.generation import WritingSettings, generate, greedy, maybe_generate
from tutelage.errors import ConfigError
from tutelage.losses.divergences import soften
from tutelage.models.causal import make_causal
from tutelage.pipeline import run_job
from tutelage.types import Batch


def block_batch(count: int = 6) -> Batch:
    tokens = torch.randint(0, 20, (16 * count + 1,), generator=torch.Generator().manual_seed(0))
    ids = torch.arange(count)
    return BatchBuilder(BlockSource(tokens, 16), num_classes=20)[ids, torch.zeros_like(ids)]


def written(batch: Batch, *, seed: int = 0, model=None, **settings: object) -> Batch:
    chosen = WritingSettings(**({"share": 1.0, "prompt_tokens": 5} | settings))
    writer = model or make_model(24)
    return maybe_generate(batch, writer, chosen, vocab_size=20, seed=seed)


def test_the_beginning_is_read_and_only_what_is_written_counts():
    batch = block_batch()
    found = written(batch)
    ids, before = found.inputs["input_ids"], batch.inputs["input_ids"]
    assert ids.shape == before.shape
    assert torch.equal(ids[:, :5], before[:, :5])
    assert not torch.equal(ids[:, 5:], before[:, 5:])
    assert torch.equal(found.labels[:, :-1], ids[:, 1:])
    counted = found.inputs["counted"]
    assert not counted[:, :4].any()
    assert counted[:, 4:].all()
    assert found.labels.max() < 20


def test_the_same_seed_writes_the_same_text_and_leaves_the_network_as_it_was():
    model, batch = make_model(24).train(), block_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, same, other = (written(batch, model=model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_share_of_the_batches_is_written():
    batch, model = block_batch(1), make_model(24, layers=1)
    kept = sum(
        written(batch, model=model, seed=seed, share=0.3, prompt_tokens=15) is batch
        for seed in range(200)
    )
    assert 110 < kept < 170


def test_greedy_text_is_that_of_the_library(teacher_path):
    model = make_causal(str(teacher_path)).eval()
    prompts = block_batch().inputs["input_ids"][:, :4]
    wanted = model.generate(
        prompts, max_new_tokens=7, do_sample=False, pad_token_id=0, eos_token_id=99
    )
    assert torch.equal(generate(model, prompts, 7, greedy), wanted)


def test_drawn_tokens_come_as_often_as_they_are_likely():
    model = make_model(24)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    prompt = torch.tensor([[3, 1, 4]])
    batch = block_batch(1)
    inputs = {"input_ids": prompt.expand(4000, -1), "counted": torch.ones(4000, 3).bool()}
    labels = torch.zeros(4000, 3).long()
    ids = torch.zeros(4000).long()
    many = Batch(inputs, labels, ids, ids)
    found = written(many, model=model, prompt_tokens=3, sampling_temperature=2.0)
    with torch.no_grad():
        chances = soften(model.eval()(input_ids=prompt).logits[0, -1, :20], 2.0)
    shares = torch.bincount(found.labels[:, -1], minlength=20) / 4000
    assert (shares - chances).abs().max() < 0.03
    assert chances.max() > 0.15
    assert len(batch) == 1


ON_POLICY = {
    "reverse": {"loss": "reverse_kl"},
    "gkd": {"loss": "jensen_shannon", "teacher_share": 0.5},
    "sampled": {"loss": "sampled_reverse_kl"},
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_student_learns_from_its_own_text(write_recipe, name):
    path = write_recipe(
        objective={"task_weight": 0.0, "terms": [ON_POLICY[name]]},
        on_policy={"share": 0.5 if name == "gkd" else 1.0, "prompt_tokens": 4},
        cache=None,
        baseline=False,
        train={"epochs": 2, "batch_size": 10},
        optimizer={"kind": "adamw", "lr": 0.002},
    )
    job = build_job(read_recipe(path))
    start = job.task.predict(
        job.new_student(0),
        (job.test_reader[torch.arange(40), torch.zeros(40).long()] for _ in range(1)),
        torch.device("cpu"),
    )
    record = run_job(job).record
    before = job.task.validate(start)[0]
    assert record.arms[0].last.values["perplexity"] < 0.8 * before


def test_a_teacher_writes_for_sequence_level_distillation(write_recipe):
    path = write_recipe(
        objective={"task_weight": 1.0, "terms": [{"loss": "kd", "weight": 0.1, "temperature": 1}]},
        on_policy={"share": 1.0, "writer": "teacher", "prompt_tokens": 4},
        cache=None,
        baseline=False,
    )
    record = run_job(build_job(read_recipe(path))).record
    assert record.arms[0].last.values["perplexity"] < 6


def changed(write_recipe, **changes: object):
    parts = {
        "objective": {"task_weight": 0.0, "terms": [{"loss": "reverse_kl"}]},
        "on_policy": {"prompt_tokens": 4},
        "cache": None,
    }
    return build_job(read_recipe(write_recipe(**(parts | changes))))


REFUSED = [
    ({"cache": {"codec": "topk:4"}}, r"on_policy: a cache .*Set cache: null"),
    (
        {"on_policy": {"prompt_tokens": 16}},
        r"prompt_tokens \(16\) must be below data.block_size \(16\)",
    ),
    ({"objective": {"task_weight": 0.1}}, r"learn its own mistakes .*task_weight: 0"),
    (
        {"objective": {"task_weight": 0.0, "terms": [{"loss": "sampled_reverse_kl"}]}},
        r"sampled_reverse_kl judges tokens that the student drew",
    ),
    ({"on_policy": None, "task": "classification"}, "does not go with"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_on_policy_text_that_makes_no_sense_is_refused(write_recipe, changes, message):
    with pytest.raises(ConfigError, match=message):
        changed(write_recipe, **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share must be above 0"),
        ({"writer": "me"}, "writer must be student or teacher, got 'me'"),
        ({"sampling_temperature": 0.0}, "sampling_temperature above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        WritingSettings(**settings)


def test_the_recipe_keeps_the_sampling_temperature_apart(write_recipe):
    job = changed(write_recipe, on_policy={"prompt_tokens": 4, "sampling_temperature": 0.7})
    assert job.problem.writing.sampling_temperature == 0.7
    assert job.objective.temperature == 1.0
    assert yaml.safe_load(yaml.safe_dump(dict(job.recipe)))["on_policy"]["share"] == 0.5
