"""Comparisons under one protocol: all methods, and published tables, ours beside the paper's."""

from tutelage.bench.comparison import compare
from tutelage.bench.hinton import reproduce_hinton_mnist
from tutelage.bench.leaderboard import Leaderboard
from tutelage.bench.records import Reproduction
from tutelage.bench.suites import SUITES

REPRODUCTIONS = {"hinton-mnist": reproduce_hinton_mnist}

__all__ = ["REPRODUCTIONS", "SUITES", "Leaderboard", "Reproduction", "compare"]
