"""LiteRT: Android and microcontrollers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.targets.base import Batches, Port, Ports, Runner, Target, label
from tutelage.errors import ExportError
from tutelage.files import write_bytes
from tutelage.inputs import InputKind

TOO_NEW = (2, 15)


@final
class LiteRt(Target):
    """A `.tflite` file for one sample at a time.

    An int8 file of a way other than dynamic takes and gives whole numbers of eight bits, as
    a microcontroller wants them; running it here scales to and from them.
    """

    name = "litert"
    title = "LiteRT"
    places = "Android, microcontrollers"
    suffix = ".tflite"
    extra = "litert"
    modules = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
    beside_others = (
        "Its converter holds typing-extensions below 4.13, so name it in one pip install with the "
        "other extras that you want, in a new environment, or give it one of its own and run "
        "tutelage export RUN --target litert there."
    )
    batch_size = 1
    weight_steps = 127
    opening = """\
interpreter = ai_edge_litert.interpreter.Interpreter("FILE")
interpreter.allocate_tensors()
taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
(scale, zero), (out_scale, out_zero) = taken["quantization"], given["quantization"]
logits = []
for sample in samples:
    if scale:  # it takes whole numbers of eight bits
        sample = numpy.clip(numpy.round(sample / scale) + zero, -128, 127)
    interpreter.set_tensor(taken["index"], sample[None].astype(taken["dtype"]))
    interpreter.invoke()
    said = interpreter.get_tensor(given["index"])[0].astype("float32")
    logits.append((said - out_zero) * out_scale if out_scale else said)
"""
    schemes: ClassVar[Mapping[str, str]] = {
        "minmax": "static: activations scaled by the smallest and largest value seen",
        "dynamic": "activations scaled anew in each call; for transformers and MLPs",
    }

    def check(self) -> None:
        """Also refuse a PyTorch version that the converter does not support."""
        numbers = torch.__version__.split(".")[:2]
        if tuple(int(number) for number in numbers) >= TOO_NEW:
            raise ExportError(
                f"The target 'litert' needs torch below {'.'.join(map(str, TOO_NEW))}, here is "
                f"{torch.__version__}. Export from an environment of its own: pip install "
                f"'tutelage[litert]' 'torch<{'.'.join(map(str, TOO_NEW))}', then tutelage export "
                "RUN --target litert."
            )
        super().check()

    def _write(self, network: nn.Module, example: Tensor, path: Path, kind: InputKind) -> None:
        import litert_torch

        with torch.no_grad():
            edge = litert_torch.convert(network, (example[:1].contiguous(),))
        edge.export(str(path))

    def _quantise(
        self, network: nn.Module, source: Path, calibration: Batches, path: Path, scheme: str
    ) -> None:
        from ai_edge_quantizer import quantizer, recipe

        rule = recipe.dynamic_wi8_afp32() if scheme == "dynamic" else recipe.static_wi8_ai8()
        found = None if scheme == "dynamic" else _ranges(source, rule, calibration)
        maker = quantizer.Quantizer(str(source), rule)
        write_bytes(path, bytes(maker.quantize(found).quantized_model))

    def _describe(self, path: Path) -> Ports:
        interpreter = _interpreter(path, 1)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return Ports(*([_port(one) for one in ports] for ports in (inputs, outputs)))

    def _open(self, path: Path, threads: int) -> Runner:
        interpreter = _interpreter(path, threads)
        taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
            interpreter.set_tensor(taken["index"], _scaled(inputs, taken))
            interpreter.invoke()
            return _unscaled(interpreter.get_tensor(given["index"]), given)

        return Runner(label(self.title, "ai-edge-litert"), run, self.batch_size)


def _ranges(source: Path, rule: Any, calibration: Batches) -> Any:
    """Smallest and largest value of each tensor; the quantiser itself uses a moving average."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(rule)
    ((signature, names),) = _interpreter(source, 1).get_signature_list().items()
    rows = [row[None].numpy() for batch in calibration for row in batch]
    finder = calibrator.Calibrator(str(source), qsv_update_func=min_max_update)
    finder.calibrate({signature: [{names["inputs"][0]: _narrow(row)} for row in rows]}, manager)
    return finder.get_model_qsvs()


def _interpreter(path: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _port(detail: Any) -> Port:
    scale, zero = detail["quantization"]
    shape = [int(size) for size in detail["shape"]]
    dtype = np.dtype(detail["dtype"]).name
    return Port(detail["name"], shape, dtype, *((float(scale), int(zero)) if scale else ()))


def _narrow(inputs: NDArray[Any]) -> NDArray[Any]:
    """Narrow whole numbers to 32 bits, as the converter does."""
    return inputs.astype(np.int32) if inputs.dtype == np.int64 else inputs


def _scaled(inputs: NDArray[Any], detail: Any) -> NDArray[Any]:
    """Inputs in the scale and type of the file."""
    scale, zero = detail["quantization"]
    if detail["dtype"] != np.int8 or not scale:
        return inputs.astype(detail["dtype"], copy=False)
    scaled: NDArray[np.int8] = np.clip(np.round(inputs / scale) + zero, -128, 127).astype(np.int8)
    return scaled


def _unscaled(logits: NDArray[Any], detail: Any) -> NDArray[np.float32]:
    scale, zero = detail["quantization"]
    if logits.dtype != np.int8 or not scale:
        return logits.astype(np.float32)
    unscaled: NDArray[np.float32] = (logits.astype(np.float32) - zero) * np.float32(scale)
    return unscaled
