"""How the bundled segmenters were trained, and how to train one again.

Not in the wheel: run from a clone, ``python -m tools.train --help``.
"""

from .data import TrainingError
from .evaluate import evaluate_model
from .loop import Progress, train
from .recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Progress", "Recipe", "TrainingError", "evaluate_model", "train"]
