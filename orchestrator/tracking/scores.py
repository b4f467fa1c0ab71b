"""Scores of evaluations, written to the runs of the trials that they belong to."""

from __future__ import annotations

from typing import Any

from mlflow.entities import Metric

from orchestrator.tracking.client import tracking_errors
from orchestrator.tracking.projection import Projection

METRICS = {
    "test_r": "test/encoding_r",
    "test_noise_normalised_r2": "test/noise_normalised_r2",
    "voxels_improved_percent": "test/voxels_improved_percent",
    "voxels_above_regression_percent": "test/voxels_above_regression_percent",
    "bits": "information/bits",
    "image_top1": "information/image_top1",
    "image_top5": "information/image_top5",
    "response_top1": "information/response_top1",
    "response_top5": "information/response_top5",
    "accuracy": "classification",
    "fraction_above_untuned": "transfer/fraction_above_untuned",
    "mean_delta_r": "transfer/mean_delta_r",
}
"""Name of each score in MLflow; of classification and transfer also on which images, or which subject."""


def log_test_scores(projection: Projection, rows: list[dict[str, Any]]) -> None:
    """Write scores on test stimuli; the same rows again change nothing.

    Raises:
        StorageError: MLflow cannot be written.
    """
    with tracking_errors(projection.plan.tracking_uri):
        for row in rows:
            run_id = projection.run_id(row["trial"])
            if run_id is None:
                continue
            moment = projection.client.get_run(run_id).info.start_time
            points = [Metric(_key(name, row), row[name], moment, 0) for name in METRICS if row.get(name) is not None]
            projection.client.log_batch(run_id, metrics=points)


def _key(name: str, row: dict[str, Any]) -> str:
    key = METRICS[name]
    if key.startswith("transfer/"):
        return f"{key}/{row['dataset']}.{row['subject']}" if row["external"] else f"{key}/{row['subject']}"
    if key == "classification":
        return f"{key}/{row['set']}"
    pooled = "+" in row["trial"].split("/")[0]
    return f"{key}/{row['subject']}" if pooled else key
