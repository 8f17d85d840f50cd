"""Scores archives: images, tars, Parquet and videos in, partitions of Parquet out, on one machine or a Ray cluster.

input -> list of entries, cut into partitions (`inputs`, `plan`) -> worker processes (`pool`, `cluster`)
      -> one Parquet file a partition, whole or not at all (`stage`, `output`)
"""
