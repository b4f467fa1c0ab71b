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
}


def log_test_scores(projection: Projection, rows: list[dict[str, Any]]) -> None:
    """Write test scores; the same rows again change nothing.

    Raises:
        StorageError: MLflow cannot be written.
    """
    with tracking_errors(projection.plan.tracking_uri):
        for row in rows:
            run_id = projection.run_id(row["trial"])
            if run_id is None:
                continue
            moment = projection.client.get_run(run_id).info.start_time
            points = [Metric(key, row[name], moment, 0) for name, key in METRICS.items() if row[name] is not None]
            projection.client.log_batch(run_id, metrics=points)
