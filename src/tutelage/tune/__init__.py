"""Search for the settings of a distillation on validation data."""

from tutelage.tune.records import Tuned
from tutelage.tune.search import Search, tune
from tutelage.tune.space import GROUPS, Setting, search_space

__all__ = ["GROUPS", "Search", "Setting", "Tuned", "search_space", "tune"]
