"""Names of the files with evaluation results, for code that lists them without drawing them."""

from __future__ import annotations

METRICS = "metrics.json"
CLASSIFICATION_REPORT = "classification_report.csv"
CONFUSION_MATRIX = "confusion_matrix.png"
MOST_CONFUSED = "most_confused.png"
GRADCAM_GRID = "gradcam_grid.png"
EVALUATION_FILES = (METRICS, CLASSIFICATION_REPORT, CONFUSION_MATRIX, MOST_CONFUSED)

LOSS_AND_ACCURACY = "loss_and_accuracy.png"
PRECISION_RECALL = "precision_recall.png"
TOPK = "topk.png"
TRAINING_PLOTS = (LOSS_AND_ACCURACY, PRECISION_RECALL, TOPK)
