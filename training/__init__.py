"""From labelled images to a checkpoint: recipes, the model, the fit loop, evaluation.

Import from the modules: `recipe` and `run_folder` need no torch, `model`, `checkpoint` and `fit` do.
"""
