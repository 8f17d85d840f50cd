"""The open set: what a model answers to cars of other classes and to things that are no car."""
