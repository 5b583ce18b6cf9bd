"""The stages of a run, from data to report, and the Python call that starts them."""

from tutelage.pipeline.api import Distilled, distill
from tutelage.pipeline.run import run_job

__all__ = ["Distilled", "distill", "run_job"]
