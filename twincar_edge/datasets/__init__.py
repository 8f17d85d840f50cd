"""Opens, checks and splits labeled images, without torch."""

from twincar_edge.datasets.dataset import Dataset, ImageFile, ImageSource, Sample
from twincar_edge.datasets.integrity import Finding, IntegrityReport, check_integrity
from twincar_edge.datasets.layouts import LAYOUTS, Layout, OpenOptions, open_dataset
from twincar_edge.datasets.split import Split, read_split, stratified_folds, stratified_split, write_split

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Finding",
    "ImageFile",
    "ImageSource",
    "IntegrityReport",
    "Layout",
    "OpenOptions",
    "Sample",
    "Split",
    "check_integrity",
    "open_dataset",
    "read_split",
    "stratified_folds",
    "stratified_split",
    "write_split",
]
