"""Comparisons under one protocol: published tables, ours beside the paper's."""

from tutelage.bench.hinton import reproduce_hinton_mnist
from tutelage.bench.records import Reproduction

REPRODUCTIONS = {"hinton-mnist": reproduce_hinton_mnist}

__all__ = ["REPRODUCTIONS", "Reproduction"]
