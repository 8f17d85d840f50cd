"""The open set: a model's answers to cars of other classes and to things other than cars."""
