"""ExecuTorch with XNNPACK: phones and wearables."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.quantise import OUTLIERS
from tutelage.deploy.targets.base import (
    Batches,
    Port,
    Ports,
    Runner,
    Target,
    label,
    sizes,
    traced,
)
from tutelage.files import write_bytes
from tutelage.inputs import InputKind

SMALLEST_SCALE = 2**-12  # XNNPACK's own
SCALAR_TYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@final
class ExecuTorch(Target):
    """A `.pte` file for one sample at a time, delegated to XNNPACK."""

    name = "executorch"
    title = "ExecuTorch"
    places = "phones, wearables"
    suffix = ".pte"
    extra = "executorch"
    modules = ("executorch.exir", "executorch.runtime", "torchao")
    batch_size = 1
    weight_steps = 127
    opening = """\
method = executorch.runtime.Runtime.get().load_program("FILE").load_method("forward")
logits = numpy.concatenate([method.execute([torch.from_numpy(s[None])])[0] for s in samples])
"""
    schemes: ClassVar[Mapping[str, str]] = {
        "minmax": "static: activations scaled by the smallest and largest value seen",
        "percentile": "static: activations scaled without the rarest values",
        "dynamic": "linear layers; activations scaled anew in each call",
    }

    def _write(self, network: nn.Module, example: Tensor, path: Path, kind: InputKind) -> None:
        _lower(traced(network, example, any_batch=False), path)

    def _quantise(
        self, network: nn.Module, source: Path, calibration: Batches, path: Path, scheme: str
    ) -> None:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        example = calibration[0]
        prepared = prepare_pt2e(
            traced(network, example, any_batch=False).module(), _quantiser(scheme)
        )
        with torch.no_grad():
            for batch in calibration:
                for row in batch:
                    prepared(row[None])
        _lower(traced(convert_pt2e(prepared), example, any_batch=False), path)

    def _describe(self, path: Path) -> Ports:
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        facts = program.metadata("forward")
        inputs = [facts.input_tensor_meta(number) for number in range(facts.num_inputs())]
        outputs = [facts.output_tensor_meta(number) for number in range(facts.num_outputs())]
        return Ports(*([_port(one) for one in ports] for ports in (inputs, outputs)))

    def _open(self, path: Path, threads: int) -> Runner:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)
        method = Runtime.get().load_program(path).load_method("forward")
        assert method is not None

        def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
            logits: NDArray[np.float32] = method.execute([torch.from_numpy(inputs)])[0].numpy()
            return logits.copy()

        return Runner(label(self.title, "executorch"), run, self.batch_size)


def _port(meta: Any) -> Port:
    """An input or output; ExecuTorch knows it by position, with PyTorch's numbers of dtypes."""
    return Port(None, sizes(meta.sizes()), SCALAR_TYPES[meta.dtype()])


def _lower(program: Any, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    write_bytes(path, bytes(lowered.to_executorch().buffer))


def _quantiser(scheme: str) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=scheme == "dynamic")
    if scheme != "dynamic":
        observer = _observer(scheme).with_args(eps=SMALLEST_SCALE)
        config = replace(
            config,
            input_activation=replace(config.input_activation, observer_or_fake_quant_ctr=observer),
            output_activation=replace(
                config.output_activation, observer_or_fake_quant_ctr=observer
            ),
        )
    return XNNPACKQuantizer().set_global(config)


def _observer(scheme: str) -> Any:
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

    if scheme == "minmax":
        return MinMaxObserver

    class Percentile(HistogramObserver):  # type: ignore[misc]
        """The range of all values but the rarest."""

        def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
            share = self.histogram.cumsum(dim=0) / self.histogram.sum()
            ends = torch.tensor([OUTLIERS, 1 - OUTLIERS])
            first, last = torch.searchsorted(share, ends).clamp(max=self.bins - 1)
            width = (self.max_val - self.min_val) / self.bins
            return self.min_val + width * first, self.min_val + width * (last + 1)

    return Percentile
