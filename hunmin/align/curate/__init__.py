"""Training data without duplicates, noise and what teaches nothing, by a recipe, and a page that shows what went."""

from hunmin.align.curate.run import Curated as Curated
from hunmin.align.curate.run import Recipe as Recipe
from hunmin.align.curate.run import run as run
