"""Networks as people have them: each comes out right or is refused in one sentence."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tutelage
from tutelage.errors import ConfigError, ModelError, RunFolderError
from tutelage.models.copies import copied, load_state, state_of
from tutelage.models.load import load_weights
from tutelage.pipeline.networks import as_network, check_names
from tutelage.pipeline.training import save_weights


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Around(nn.Module):
    """A network around a plain one."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, inputs):
        return self.net(inputs)


class Stores(Around):
    """Keeps activations, with their graph, in a list of dicts."""

    def forward(self, inputs):
        hidden = self.net[0](inputs)
        self.kept = [{"hidden": hidden}]
        return self.net[1:](hidden)


class Counts(Around):
    """Has extra state that moves while it is trained."""

    steps = 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]

    def forward(self, inputs):
        self.steps += self.training
        return self.net(inputs)


class OddState(Around):
    def get_extra_state(self):
        return {1, 2}


class Locked(Around):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Warms(Around):
    """Grows louder with the steps that it counts in a plain attribute."""

    steps = 0

    def forward(self, inputs):
        self.steps += self.training
        return self.net(inputs) * min(1, self.steps / 9)


class Centres(Around):
    """Follows the mean of its inputs in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, inputs):
        if self.training:
            self.mean = (self.mean + inputs.mean(dim=0)) / 2
        return self.net(inputs - self.mean)


class Follows(Centres):
    def __init__(self):
        super().__init__()
        mean = self._buffers.pop("mean")
        self.mean = mean


class Carries(Around):
    """Goes on from its last hidden state, with the graph of the step before."""

    last = 0

    def forward(self, inputs):
        hidden = self.net[0](inputs)
        if self.training:
            hidden = hidden + self.last
            self.last = hidden.mean()
        return self.net[1:](hidden)


class GivesDict(Around):
    def forward(self, inputs):
        return {"logits": self.net(inputs), "hidden": inputs}


class Moves(Around):
    """Counts its calls in a buffer, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.net(inputs)


class Drops(Around):
    def forward(self, inputs):
        return self.net(F.dropout(inputs, 0.5))


def weight_norm():
    with pytest.warns(FutureWarning):
        network = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    network(torch.rand(2, 4))
    return network


def stores():
    network = Stores()
    network(torch.rand(2, 4))
    return network


def made_in_inference_mode():
    with torch.inference_mode():
        return net()


NETWORKS = {
    "a weight computed before each forward": weight_norm,
    "stored activations": stores,
    "extra state": Counts,
    "a dict of logits": GivesDict,
    "traced": lambda: torch.jit.trace(net(), torch.rand(2, 4)),
    "compiled": lambda: torch.compile(net(), backend="eager"),
    "on several devices": lambda: nn.DataParallel(net()),
    "bfloat16": lambda: net().bfloat16(),
    "float64": lambda: net().double(),
    "made in inference mode": made_in_inference_mode,
}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(48, 4, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


def distilled(teacher, student, data, **settings):
    return tutelage.distill(
        teacher, student, data, valid_data=data, epochs=2, lr=0.01, batch_size=16, **settings
    )


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_it_teaches_and_learns(make, data):
    student = make()
    before = [value.detach().clone() for value in student.parameters()]
    result = distilled(make(), student, data)
    learned = list(result.student.parameters())
    assert len(learned) == len(before)
    assert not torch.equal(learned[-1].detach().float(), before[-1].float())
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_precision_that_was_changed_is_told(data):
    notes = distilled(net(), net().bfloat16(), data).record.notes
    assert any("student came in bfloat16 and was run in float32" in note for note in notes)


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (net, OddState, "student: OddState: the extra state '_extra_state' is a set"),
        (net, Locked, "student: Locked: the network cannot be copied"),
        (Locked, net, "teacher: Locked: the network cannot be copied"),
        (Moves, net, "teacher: Moves writes into its buffer 'calls' .* eval mode"),
        (Drops, net, "teacher: Drops gives different logits when it is run again"),
        (
            net,
            lambda: nn.LazyLinear(3),
            "student: LazyLinear: the lazy layer '' has no weights yet",
        ),
        (lambda: nn.LazyLinear(3), net, "teacher: LazyLinear: the lazy layer"),
        (net, Warms, r"distilled, .*: Warms is changed .* \(the attribute 'steps'\)"),
        (net, Centres, r"distilled, .*: Centres is changed .* \(the buffer 'mean'\)"),
        (net, Follows, r"distilled, .*: Follows is changed .* \(the attribute 'mean'\)"),
        (
            net,
            Carries,
            "distilled, .*: RuntimeError: Trying to backward through the graph a second",
        ),
        (lambda: nn.Sequential(net(), nn.Sigmoid()), net, "teacher: Sequential ends in a sigmoid"),
    ],
)
def test_it_is_refused_before_any_training(teacher, student, message, data, tmp_path):
    with pytest.raises(ModelError, match=message):
        distilled(teacher(), student(), data, out=tmp_path / "run")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_student_without_trainable_weights_is_refused(data):
    with pytest.raises(ConfigError, match="student: no weight of the student can be trained"):
        distilled(net(), net().requires_grad_(False), data)


@pytest.mark.parametrize("given", [lambda inputs: inputs, "resnet18", net().state_dict(), net])
def test_what_is_no_network_is_refused(given):
    with pytest.raises(ConfigError, match=r"teacher: it must be a torch.nn.Module, got a "):
        as_network(given, "teacher", [])


def test_a_network_may_teach_itself(data):
    network = net()
    before = copy.deepcopy(network.state_dict())
    result = distilled(network, network, data)
    assert not torch.equal(result.student[0].weight, before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_part_that_teacher_and_student_share_is_trained_in_the_student_alone(data):
    body = nn.Linear(4, 8)
    before = body.weight.detach().clone()
    teacher, student = (nn.Sequential(body, nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    result = distilled(teacher, student, data)
    assert not torch.equal(result.student[0].weight, before)
    assert torch.equal(body.weight, before)
    assert body.weight.requires_grad


def test_several_teachers_teach_by_the_mean_of_their_probabilities(data):
    torch.manual_seed(0)
    teachers, start = [net(), net()], net()
    both = distilled(teachers, start, data)
    alone = distilled(teachers[0], start, data)
    twice = distilled([teachers[0], teachers[0]], start, data)
    torch.testing.assert_close(twice.student[0].weight, alone.student[0].weight)
    assert not torch.allclose(both.student[0].weight, alone.student[0].weight)


def test_no_teacher_at_all_is_refused(data):
    with pytest.raises(ConfigError, match="teacher: the list is empty"):
        distilled([], net(), data)


def test_extra_state_is_kept_in_weights_and_in_what_goes_on(data, tmp_path):
    result = distilled(net(), Counts(), data, out=tmp_path)
    assert result.student.steps >= 6
    again = distilled(net(), Counts(), data, out=tmp_path / "other")
    save_weights(result.student, tmp_path / "weights.safetensors")
    fresh = Counts()
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert fresh.steps == result.student.steps == again.student.steps
    load_state(fresh, state_of(Counts()))
    assert fresh.steps == 0


def test_a_copy_shares_no_memory():
    network = stores()
    twin = copied(network)
    twin.kept[0]["hidden"].zero_()
    twin.net[0].weight.data.zero_()
    assert network.kept[0]["hidden"].abs().sum() > 0
    assert network.net[0].weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abc", "class_names: it must be a list of texts, one a class, got 'abc'"),
        ([0, 1, 2], r"class_names: it must be a list of texts, one a class, got \[0, 1, 2\]"),
        (["a", "b", "a"], "class_names: 'a' occurs twice"),
    ],
)
def test_what_names_no_classes_is_refused(names, message):
    for argument in ("class_names", "teacher_class_names"):
        with pytest.raises(ConfigError, match=message):
            check_names(argument, names)


def test_class_names_are_looked_at_before_anything_is_run(data):
    for argument in ("class_names", "teacher_class_names"):
        with pytest.raises(ConfigError, match=f"^{argument}: 'a' occurs twice"):
            distilled(net(), net(), data, **{argument: ["a", "b", "a"]})


class Turned(Around):
    turns = 1

    def forward(self, inputs):
        return self.net(inputs) * self.turns


@pytest.mark.parametrize("codec", [None, "float32"])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_whose_code_changed_does_not_go_on(role, codec, data, tmp_path):
    networks = {"teacher": Turned(), "student": Turned()}
    first = distilled(**networks, data=data, out=tmp_path, codec=codec)
    again = distilled(**networks, data=data, out=tmp_path, codec=codec)
    assert torch.equal(first.student.net[0].weight, again.student.net[0].weight)
    networks[role].turns = -1
    with pytest.raises(RunFolderError, match="its code has changed since"):
        distilled(**networks, data=data, out=tmp_path, codec=codec)
