"""Objects of one's own as a user writes them, which recipes name as own_objects.py:Name."""

import numpy as np
import torch
from torch import nn

from tutelage.data.views import ViewPolicy, mix
from tutelage.deploy.targets import Port, Ports, Runner, Target
from tutelage.types import Outputs, Signal


def load(count=300, noise=0.5, named=True):
    """Three classes of six numbers."""
    centres = 2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))

    def part(size, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 3, (size,), generator=generator)
        return centres[labels] + noise * torch.randn(size, 6, generator=generator), labels

    names = {"class_names": ["ash", "birch", "cedar"]} if named else {}
    return {"train": part(count, 1), "valid": part(60, 2), "test": part(90, 3), **names}


def pairs(count=120):
    """Training data alone, as a list of pairs."""
    inputs, labels = load(count)["train"]
    return list(zip(inputs, labels.tolist(), strict=True))


def nothing():
    """A function that forgets to return."""


def network(num_classes, width=16, in_features=6):
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes))


class Jitter(ViewPolicy):
    """A little noise, drawn from the numbers of sample and view."""

    def __init__(self, num_views=4, size=0.1):
        self.num_views, self.size = num_views, size
        self.fingerprint = f"jitter({num_views}, {size})"

    def apply(self, inputs, sample_ids, view_ids):
        places = torch.arange(inputs.shape[1])
        drawn = mix(sample_ids, view_ids)[:, None].expand(-1, len(places))
        noise = mix(drawn, places.expand(len(inputs), -1))
        return inputs + self.size * (noise.double() / 2**63 - 0.5).float()


class ByPlace(Jitter):
    """Noise by the place in the batch, which no cache can hold."""

    def apply(self, inputs, sample_ids, view_ids):
        return inputs + self.size * torch.arange(len(inputs))[:, None]


class Nameless(ViewPolicy):
    """A policy without a fingerprint."""

    num_views = 2

    def apply(self, inputs, sample_ids, view_ids):
        return inputs


class Halves:
    """Log-probabilities in float16."""

    name = "halves"
    takes = frozenset({Signal.LOGITS})

    def encode(self, logits):
        return {"log_p": logits.log_softmax(dim=-1).half()}

    def decode(self, arrays, num_classes):
        return Outputs(torch.from_numpy(arrays["log_p"]).float())


class Forgetful(Halves):
    """A codec that loses rows."""

    name = "forgetful"

    def encode(self, logits):
        return {"log_p": logits[:1]}


class Signs(torch.optim.Optimizer):
    """Steps by sign, with every kind of state: floats, whole and plain numbers, a count a group."""

    def __init__(self, params, lr=1e-3, beta=0.9, weight_decay=0.0):
        settings = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "updates": 0}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["updates"] += 1
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight, group):
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
            state["signs"] = torch.zeros_like(weight, dtype=torch.int32)
            state["count"] = 0
        state["count"] += 1
        state["mean"].lerp_(weight.grad, 1 - group["beta"])
        state["signs"] += state["mean"].sign().int()
        size = group["lr"] / (group["updates"] + state["count"]) ** 0.5
        weight.add_(state["signs"].sign() + state["mean"].sign(), alpha=-size)


class TwoRates(torch.optim.SGD):
    """The first weight learns ten times as slowly."""

    def __init__(self, params, lr=0.1):
        first, *rest = list(params)
        super().__init__([{"params": [first], "lr": lr / 10}, {"params": rest}], lr=lr)


class Listing(torch.optim.SGD):
    """Keeps a list that no checkpoint can hold."""

    def step(self, closure=None):
        super().step(closure)
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["seen"] = [1, 2]


def triangle(step, total, floor=0.1):
    half = total / 2
    return floor + (1 - floor) * (1 - abs(step - half) / half)


def below_zero(step, total):
    return 1 - 2 * step / total


class Npz(Target):
    """Weights of linear layers as NumPy arrays, run by NumPy."""

    name, title, places, suffix = "npz", "NumPy", "wherever NumPy runs", ".npz"
    extra, modules = "", ()
    why_no_int8 = "its weights are floats."
    opening = 'weights = np.load("FILE")\n'

    def _write(self, network, example, path, kind):
        with open(path, "wb") as file:
            np.savez(file, *[weight.detach().numpy() for weight in network.parameters()])

    def _open(self, path, threads):
        held = np.load(path)
        weights = [held[name] for name in held.files]

        def run(rows):
            for place in range(0, len(weights), 2):
                rows = rows @ weights[place].T + weights[place + 1]
                rows = np.maximum(rows, 0) if place + 2 < len(weights) else rows
            return rows

        return Runner("NumPy", run)

    def _describe(self, path):
        held = np.load(path)
        first, last = held[held.files[0]], held[held.files[-1]]
        inputs = [Port("inputs", ["batch", int(first.shape[1])], "float32")]
        return Ports(inputs, [Port(None, ["batch", int(last.shape[0])], "float32")])
