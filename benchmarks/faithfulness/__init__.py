"""Faithfulness of explanations: whether an answer depends on the pixels that its heat map highlights."""
