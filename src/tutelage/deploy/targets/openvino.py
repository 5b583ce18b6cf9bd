"""OpenVINO: Intel processors, from cameras to PCs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

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
from tutelage.inputs import InputKind


@final
class OpenVino(Target):
    """An `.xml` file with its weights in a `.bin` file beside it, in float32; any batch size.

    Its processor plug-in computes in bfloat16 where it can unless told otherwise, which moves
    logits by up to 0.2; here it is told to keep to float32. No file can tell it: whoever gets one
    is told in config.json and in the model card.
    """

    name = "openvino"
    title = "OpenVINO"
    places = "Intel cameras, PCs, servers"
    suffix = ".xml"
    extra = "openvino"
    modules = ("openvino", "nncf")
    schemes: ClassVar[Mapping[str, str]] = {
        "minmax": "static: activations scaled by the smallest and largest value seen",
        "percentile": "static: activations scaled without the rarest values",
    }

    runs_with: ClassVar[Mapping[str, str]] = {"INFERENCE_PRECISION_HINT": "f32"}
    opening = """\
# Without the hint it computes in bfloat16 on processors that have it, which was not compared.
settings = {"INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.Core().compile_model("FILE", "CPU", settings)
logits = compiled(samples)[0]
"""

    def files(self, path: Path) -> list[Path]:
        """The weights file, then the graph."""
        return [path.with_suffix(".bin"), path]

    def _write(self, network: nn.Module, example: Tensor, path: Path, kind: InputKind) -> None:
        import openvino

        model = openvino.convert_model(traced(network, example, any_batch=True))
        # Left alone, every size of the input would be free: only the batch's is.
        model.reshape(openvino.PartialShape([-1, *example.shape[1:]]))
        model.inputs[0].get_tensor().set_names({"inputs"})
        model.outputs[0].get_tensor().set_names({"logits"})
        openvino.save_model(model, path, compress_to_fp16=False)

    def _quantise(
        self, network: nn.Module, source: Path, calibration: Batches, path: Path, scheme: str
    ) -> None:
        import nncf
        import openvino

        samples = [row[None].numpy() for batch in calibration for row in batch]
        model = nncf.quantize(
            openvino.Core().read_model(source),
            nncf.Dataset(samples),
            subset_size=len(samples),
            fast_bias_correction=False,  # the fast one took 17 % of a small CNN's predictions
            # No model_type: told that it is a transformer, NNCF left a ViT 21 % of its predictions.
            advanced_parameters=_settings(scheme),
        )
        openvino.save_model(model, path, compress_to_fp16=False)

    def _describe(self, path: Path) -> Ports:
        import openvino

        model = openvino.Core().read_model(path)
        return Ports(*([_port(one) for one in ports] for ports in (model.inputs, model.outputs)))

    def _open(self, path: Path, threads: int) -> Runner:
        import openvino

        core = openvino.Core()
        settings = {**self.runs_with, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
        return Runner(label(self.title, "openvino"), lambda inputs: compiled(inputs)[0].copy())


def _port(one: Any) -> Port:
    shape = [None if size.is_dynamic else size.get_length() for size in one.get_partial_shape()]
    return Port(one.get_any_name(), sizes(shape), one.get_element_type().to_dtype().name)


def _settings(scheme: str) -> Any:
    """How ranges are estimated; weights use seven of eight bits (docs/decisions/0009)."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if scheme == "percentile":  # of each sample, and the mean of them
        kinds = (StatisticsType.QUANTILE, StatisticsType.QUANTILE)
        overall = (AggregatorType.MEAN, AggregatorType.MEAN)
    else:
        kinds = (StatisticsType.MIN, StatisticsType.MAX)
        overall = (AggregatorType.MIN, AggregatorType.MAX)
    low, high = (
        StatisticsCollectorParameters(kind, aggregator_type=whole, quantile_outlier_prob=OUTLIERS)
        for kind, whole in zip(kinds, overall, strict=True)
    )
    ranges = RangeEstimatorParameters(min=low, max=high)
    return AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE, activations_range_estimator_params=ranges
    )
