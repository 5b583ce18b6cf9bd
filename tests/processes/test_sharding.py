"""Networks in pieces: the same training, with a part of its state in each process."""

import pytest
import torch
import transformers
from safetensors import safe_open

from tests.processes.cases import arm_of, student, summary, train, train_all, train_until
from tests.processes.test_training import assert_close, same
from tutelage import distributed, sharding
from tutelage.config import build_job, read_recipe
from tutelage.data.corpus import BlockSource
from tutelage.data.loading import BatchBuilder
from tutelage.doctor import preflight
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit
from tutelage.errors import ConfigError
from tutelage.losses import KD, CrossEntropy
from tutelage.tasks import LanguageModeling
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.module import state_fingerprint

pytestmark = pytest.mark.whole

ADAMW = OptimizerSettings("adamw", lr=0.01)
CASES = [
    ("kd", {}),
    ("relational", {"optimizer": ADAMW}),
    ("fitnets", {"accumulate": 2, "clip_norm": 0.1}),
    ("contrastive", {}),
    ("kd", {"ema": 0.7}),
    ("kd", {"kind": "idle"}),
]


def in_small_units(work, *arguments):
    """Do something in a process where layers of small networks are units too."""
    sharding.UNIT = 100
    return work(*arguments)


def train_in_pieces(folder, cases):
    cases = [(name, {**changes, "shard": True}) for name, changes in cases]
    return in_small_units(train_all, folder, cases)


@pytest.fixture(scope="module")
def in_pieces(together, tmp_path_factory):
    return together(train_in_pieces, str(tmp_path_factory.mktemp("pieces")), CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{c}" for n, c in CASES])
def test_a_student_in_pieces_learns_what_a_whole_one_learns(in_pieces, tmp_path, number):
    name, changes = CASES[number]
    assert_close(train(tmp_path, name, **changes), in_pieces[0][number])
    assert same(in_pieces[0][number], in_pieces[1][number])


def llama(layers, seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def language_teacher(task, *, cut):
    teacher = ModuleTeacher(llama(4, seed=0), task, chunk=4).shared_among(distributed.world().count)
    return teacher.in_pieces(torch.device("cpu")) if cut else teacher


def train_language(folder, cut):
    """A language model and its teacher, both in pieces or both whole in every process."""
    tokens = torch.randint(0, 20, (8 * 13 + 1,), generator=torch.Generator().manual_seed(0))
    reader = BatchBuilder(BlockSource(tokens, 8), num_classes=20)
    task = LanguageModeling(num_classes=20, block_size=8)
    teacher = language_teacher(task, cut=cut)
    # SGD: a gradient that is all rounding stays small, where Adam makes a whole step of it.
    sgd = OptimizerSettings("sgd", lr=0.1)
    settings = TrainSettings(epochs=2, batch_size=4, optimizer=sgd, shard=cut)
    objective = 0.5 * CrossEntropy() + 0.5 * KD(1.0)
    arm = Arm("distilled", 3, objective, task, settings, reader, reader, teacher, folder, "k")
    return summary(fit(llama(2, seed=1), arm))


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in pieces"])
def test_two_processes_teach_a_language_model_what_one_does(together, tmp_path, cut):
    both = together(in_small_units, train_language, tmp_path / "two", cut)
    assert_close(train_language(tmp_path / "one", cut=False), both[0])
    assert same(*both)


def held(folder):
    """Shares of the student and of the optimizer's state that this process holds while it learns.

    Also the shapes in the checkpoint, and whether the teacher's network stayed as it was.
    """
    network, arm = arm_of(folder, "fitnets", optimizer=ADAMW, shard=True, checkpoint_s=0)
    plain = sum(weight.numel() for weight in student("plain").parameters())
    shares = []

    def look(self, *arguments):
        weights = list(self._plain.student.parameters())
        own = sum(sharding.local(weight).numel() for weight in weights)
        moments = [self.optimizer.state[weight]["exp_avg"] for weight in weights]
        kept = sum(sharding.local(moment).numel() for moment in moments)
        shares.append((own / plain, kept / plain))

    from tutelage.engine.distiller import Distiller

    update = Distiller._update
    Distiller._update = lambda self: (update(self), look(self))
    before = state_fingerprint(arm.teacher.model)
    fit(network, arm)
    with safe_open(f"{folder}/checkpoint.safetensors", framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shares, shapes, before == state_fingerprint(arm.teacher.model)


def test_each_process_holds_its_piece_and_the_checkpoint_is_whole(together, tmp_path):
    for shares, shapes, is_same in together(in_small_units, held, tmp_path):
        assert all(0.4 < weights < 0.6 and 0.4 < state < 0.6 for weights, state in shares)
        assert not any("teacher" in name for name in shapes)
        own = {f"trainee/student.{name}" for name in student("plain").state_dict()}
        others = {name for name in shapes if name.startswith("trainee/")} - own
        assert own <= shapes.keys()
        assert all(name.startswith("trainee/objective.") for name in others)
        for name, value in student("plain").state_dict().items():
            assert shapes[f"trainee/student.{name}"] == tuple(value.shape)
            assert shapes[f"selected/{name}"] == tuple(value.shape)
        assert is_same


CHANGES = {"epochs": 3, "ema": 0.9, "optimizer": ADAMW, "shard": True, "kind": "dropout"}


def test_pieces_that_were_stopped_go_on_as_if_they_had_not_been(together, tmp_path):
    whole = together(train_in_pieces, str(tmp_path / "whole"), [("relational", CHANGES)])[0][0]
    folder = str(tmp_path / "cut" / "0")
    said = together(in_small_units, train_until, folder, "relational", 6, CHANGES)
    assert said == ["distilled, seed 3: stopped in epoch 2; the state is saved"] * 2
    resumed = together(train_in_pieces, str(tmp_path / "cut"), [("relational", CHANGES)])[0][0]
    assert same(whole, resumed)


@pytest.mark.parametrize("first", [1, 2])
def test_pieces_go_on_whole_and_the_other_way_round(together, tmp_path, first):
    changes = CHANGES | {"kind": "plain"}
    whole = train(tmp_path / "whole", "contrastive", **changes)
    folder, case = str(tmp_path / "cut" / "0"), [("contrastive", changes)]
    said = together(in_small_units, train_until, folder, "contrastive", 6, changes, count=first)
    assert "stopped in epoch 2" in said[0]
    resumed = together(train_in_pieces, str(tmp_path / "cut"), case, count=3 - first)[0][0]
    assert_close(whole, resumed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.shard=true", r"teacher\.shard: each process builds its own part of a cache"),
        ("optimizer.kind=dot", r"train\.shard: the optimizer 'dot' needs"),
        ("train.max_norm=3", r"train\.shard: train\.max_norm needs"),
    ],
)
def test_what_does_not_go_with_pieces_is_said_before_any_work(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        preflight(build_job(read_recipe("digits", ["train.shard=true", override, "measure=null"])))
