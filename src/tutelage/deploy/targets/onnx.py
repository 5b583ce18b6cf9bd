"""ONNX, run by ONNX Runtime: servers, desktops, browsers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

from torch import nn

from tutelage.deploy.export import export_onnx
from tutelage.deploy.quantise import SCHEMES, quantise_onnx
from tutelage.deploy.runtime import check_whole, open_session, run_session
from tutelage.deploy.targets.base import Port, Ports, Runner, Target, label, sizes
from tutelage.inputs import InputKind
from tutelage.types import Inputs

NUMPY_TYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}


@final
class Onnx(Target):
    """One `.onnx` file: input "inputs" or those of texts, output "logits", any batch size."""

    name = "onnx"
    title = "ONNX Runtime"
    places = "servers, PCs, browsers"
    suffix = ".onnx"
    extra = "onnx"
    takes_named = True
    modules = ("onnx", "onnxscript", "onnxruntime")
    schemes: ClassVar[Mapping[str, str]] = SCHEMES
    opening = """\
session = onnxruntime.InferenceSession("FILE")
logits = session.run(None, {session.get_inputs()[0].name: samples})[0]
"""

    def _write(self, network: nn.Module, example: Inputs, path: Path, kind: InputKind) -> None:
        export_onnx(network, example, path, kind)

    def _quantise(
        self,
        network: nn.Module,
        source: Path,
        calibration: Sequence[Inputs],
        path: Path,
        scheme: str,
    ) -> None:
        quantise_onnx(source, path, calibration, scheme)

    def check_origin(self, path: Path) -> None:
        """Check that the file contains all of its weights."""
        check_whole(path)

    def _describe(self, path: Path) -> Ports:
        session = open_session(path, threads=1)
        inputs, outputs = (
            [Port(one.name, sizes(one.shape), NUMPY_TYPES.get(one.type, one.type)) for one in ports]
            for ports in (session.get_inputs(), session.get_outputs())
        )
        return Ports(inputs, outputs)

    def _open(self, path: Path, threads: int) -> Runner:
        session = open_session(path, threads=threads)
        return Runner(label(self.title, "onnxruntime"), lambda inputs: run_session(session, inputs))
