"""From a trained network to a file that runs elsewhere, checked and measured there."""

from tutelage.deploy.export import export_onnx
from tutelage.deploy.latency import measure_latency
from tutelage.deploy.parity import check_parity, export_checked
from tutelage.deploy.quantise import quantise_onnx
from tutelage.deploy.runtime import open_session, run_session
from tutelage.deploy.targets import TARGETS, Runner, Target, open_file, target_of

__all__ = [
    "TARGETS",
    "Runner",
    "Target",
    "check_parity",
    "export_checked",
    "export_onnx",
    "measure_latency",
    "open_file",
    "open_session",
    "quantise_onnx",
    "run_session",
    "target_of",
]
