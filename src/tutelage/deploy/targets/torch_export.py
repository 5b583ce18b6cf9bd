"""PyTorch's own exported programs: for whatever reads them next."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.targets.base import Port, Ports, Runner, Target, label, sizes, traced
from tutelage.errors import ExportError


@final
class TorchExport(Target):
    """A `.pt2` file, any batch size; PyTorch runs it without the network's Python code."""

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

    def _write(self, network: nn.Module, example: Tensor, path: Path) -> None:
        torch.export.save(traced(network, example, any_batch=True), path)

    def _describe(self, path: Path) -> Ports:
        _refuse_code(path)
        program = torch.export.load(path)
        made = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        names = (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
        inputs, outputs = ([_port(name, made[name]) for name in some] for some in names)
        return Ports(inputs, [replace(port, name=None) for port in outputs])

    def _open(self, path: Path, threads: int) -> Runner:
        _refuse_code(path)
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


def _refuse_code(path: Path) -> None:
    """Stop before torch.export.load would unpickle objects, which could run code.

    Raises:
        ExportError: The file holds something other than plain tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            configs = [name for name in names if name.endswith("_config.json")]
            pickled = [name for name in configs if '"use_pickle": true' in _text(archive, name)]
            for name in names:
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except Exception as error:
        raise ExportError(f"{path}: is no exported program of plain tensors ({error}).") from error
    if pickled:
        raise ExportError(f"{path}: {pickled[0]} asks for pickled objects, which could run code.")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    return json.dumps(json.loads(archive.read(name)))


def _port(name: str, value: Tensor) -> Port:
    return Port(name, sizes(value.shape), str(value.dtype).removeprefix("torch."))
