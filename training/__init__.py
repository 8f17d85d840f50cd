"""From labelled images to a checkpoint: recipes, the model, the fit loop, evaluation."""
