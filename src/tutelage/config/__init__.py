"""Recipes: YAML files, what may stand in them, and the objects that they make."""

from tutelage.config.build import build_job
from tutelage.config.read import read_recipe, shipped_recipes

__all__ = ["build_job", "read_recipe", "shipped_recipes"]
