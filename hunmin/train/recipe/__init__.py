"""Recipes: a training run as a YAML file (docs/recipes.md). ``run(recipe)`` carries it out, ``plan(recipe)`` says what it would cost."""

from __future__ import annotations

from hunmin.train.recipe.plan import Plan, plan
from hunmin.train.recipe.run import run, train_from_scratch
from hunmin.train.recipe.schema import Checked, Recipe, read

__all__ = ["Checked", "Plan", "Recipe", "plan", "read", "run", "train_from_scratch"]
