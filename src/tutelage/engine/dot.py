"""An optimizer with separate momenta for the task and for distillation."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tutelage.distributed import all_reduce_mean


class DOT(Optimizer):
    """SGD whose momentum is lower for the task gradient and higher for the distillation gradient.

    The two pull in different directions; letting the distillation gradient remember longer lets it
    lead. `take` is given the task's gradients before each step, and what else is in `grad` counts
    as the teacher's. A step costs one more backward pass.

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0.
        momentum: Middle of both.
        delta: Distance of each from the middle; the paper has 0.075 for CIFAR-100 and 0.09 for
            ImageNet. 0 is plain SGD.
        weight_decay: 0 or more; counted with the task.

    Source:
        Zhao, Cui, Song & Liang 2023, "DOT: A Distillation-Oriented Trainer", ICCV 2023,
        arXiv:2307.08436, section 4.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        """Hold the settings; the momenta start at 0."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "delta": delta,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, defaults)

    def take(self, loss: Tensor) -> None:
        """Add the gradients of the task loss and keep its graph."""
        if not loss.requires_grad:
            return
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                self._held(parameter, "task_gradient").add_(gradient)

    def scale_taken(self, factor: float) -> None:
        """Multiply the accumulated task gradients, as those of the whole loss are multiplied."""
        for state in self.state.values():
            state["task_gradient"].mul_(factor)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move each parameter by both momenta."""
        assert closure is None
        all_reduce_mean(state["task_gradient"] for state in self.state.values())
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        task_gradient = self._held(parameter, "task_gradient")
        assert parameter.grad is not None
        rest = parameter.grad - task_gradient
        task = self._held(parameter, "task_momentum")
        distillation = self._held(parameter, "distillation_momentum")
        task.mul_(group["momentum"] - group["delta"]).add_(task_gradient)
        task.add_(parameter, alpha=group["weight_decay"])
        distillation.mul_(group["momentum"] + group["delta"]).add_(rest)
        parameter.add_(task + distillation, alpha=-group["lr"])
        task_gradient.zero_()

    def _held(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        held: Tensor = state[name]
        return held
