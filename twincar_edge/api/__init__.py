"""The functions of `import twincar_edge as tw`, one module a function, with Python's own types as parameters.

Each builds a config and calls the function of a room that the command of the same name calls. docs/python.md shows
their use. Import them from `twincar_edge`, which loads a function's module when the function is first used.
"""
