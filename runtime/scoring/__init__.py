"""Scores archives of images, tars, Parquet files and videos into Parquet, on one machine or on a Ray cluster.

input -> list of entries, divided into partitions (`inputs`, `plan`) -> worker processes (`pool`, `on_ray`)
      -> one Parquet file per partition, written atomically (`stage`, `output`)
"""
