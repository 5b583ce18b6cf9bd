"""Comparisons of all methods under one protocol, and published tables beside our own numbers."""

from tutelage.bench.comparison import compare
from tutelage.bench.hinton import reproduce_hinton_mnist
from tutelage.bench.leaderboard import Leaderboard
from tutelage.bench.records import Reproduction
from tutelage.bench.suites import SUITES

REPRODUCTIONS = {"hinton-mnist": reproduce_hinton_mnist}

__all__ = ["REPRODUCTIONS", "SUITES", "Leaderboard", "Reproduction", "compare"]
