"""From a trained network to a file that runs elsewhere, checked and measured there."""

from tutelage.deploy.export import check_parity, export_checked, export_onnx
from tutelage.deploy.latency import measure_latency
from tutelage.deploy.quantise import quantise_onnx
from tutelage.deploy.runtime import open_session, run_session

__all__ = [
    "check_parity",
    "export_checked",
    "export_onnx",
    "measure_latency",
    "open_session",
    "quantise_onnx",
    "run_session",
]
