"""Recipes: YAML files, their schema, and the objects built from them."""

from tutelage.config.build import build_job
from tutelage.config.read import read_recipe, shipped_recipes

__all__ = ["build_job", "read_recipe", "shipped_recipes"]
