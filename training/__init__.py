"""From labeled images to a checkpoint: recipes, the model, the fit loop, evaluation.

Import from the modules. `recipe` does not need torch; `model`, `checkpoint` and `fit` do.
"""

from twincar_edge.opencv_environment import check_opencv_environment

check_opencv_environment()  # before a module of this package imports OpenCV
