"""PyTorch's own exported programs."""

from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.own import check_own, remember
from tutelage.deploy.targets.base import Port, Ports, Runner, Target, label, sizes, traced
from tutelage.inputs import InputKind


@final
class TorchExport(Target):
    """A `.pt2` file, any batch size; PyTorch runs it without the network's Python code.

    Opening one can run code: PyTorch unpickles objects and evaluates expressions that the file
    holds. So only files that were written here are opened.
    """

    name = "torch_export"
    title = "PyTorch"
    places = "PyTorch elsewhere, compilers"
    suffix = ".pt2"
    extra = ""
    modules = ()
    why_no_int8 = (
        "PyTorch runs such a graph by turning eight bits back into floats at each step, which is "
        "slower than float; other targets read the float graph and quantise it themselves."
    )

    opening = """\
logits = torch.export.load("FILE").module()(torch.from_numpy(samples)).detach().numpy()
"""

    def _write(self, network: nn.Module, example: Tensor, path: Path, kind: InputKind) -> None:
        torch.export.save(traced(network, example, any_batch=True), path)
        remember(path)

    def check_origin(self, path: Path) -> None:
        """Open only files that were written on this machine."""
        check_own(path)

    def _describe(self, path: Path) -> Ports:
        program = torch.export.load(path)
        made = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        names = (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
        inputs, outputs = ([_port(name, made[name]) for name in some] for some in names)
        return Ports(inputs, [replace(port, name=None) for port in outputs])

    def _open(self, path: Path, threads: int) -> Runner:
        module = torch.export.load(path).module()

        def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
            before = torch.get_num_threads()
            if before != threads:
                torch.set_num_threads(threads)
            with torch.no_grad():
                logits: NDArray[np.float32] = module(torch.from_numpy(inputs)).numpy()
            if before != threads:
                torch.set_num_threads(before)
            return logits

        return Runner(label(self.title, "torch"), run)


def _port(name: str, value: Tensor) -> Port:
    return Port(name, sizes(value.shape), str(value.dtype).removeprefix("torch."))
