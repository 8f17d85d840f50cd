"""From labeled images to a checkpoint: recipes, the model, the fit loop, evaluation.

Import from the modules. `recipe` does not need torch; `model`, `checkpoint` and `fit` do.
"""
