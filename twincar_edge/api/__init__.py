"""The functions of `import twincar_edge as tw`, one module per function.

Each function takes plain Python types, builds a config and calls the same implementation as the command of the same
name. docs/python.md shows their use. Import them from `twincar_edge`, which loads a
function's module when the function is first used.
"""
