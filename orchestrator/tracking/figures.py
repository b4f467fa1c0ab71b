"""Figures of a sweep's report, kept in one run beside its trials."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from orchestrator.tracking.client import tracking_errors
from orchestrator.tracking.contents import sweep_tags
from orchestrator.tracking.projection import Projection

FOLDER = "figures"
KIND = "report"
PAGE = "report.html"


def log_figures(projection: Projection, figures: Mapping[str, bytes], page: str = "") -> str:
    """Make ``figures`` the figures of the sweep's report, in place of those of a former one.

    Args:
        projection: of the sweep.
        figures: PNG files by name without ``.png``.
        page: the report itself, HTML.

    Returns:
        Id of the run, which has the tag ``kind`` = ``report`` and is the same every time.

    Raises:
        StorageError: MLflow cannot be written.
    """
    client, plan = projection.client, projection.plan
    with tracking_errors(plan.tracking_uri):
        existing = client.search_runs([projection.experiment_id], f"tags.kind = '{KIND}'", max_results=1)
        if existing:
            run = existing[0]
        else:
            tags = {**sweep_tags(plan), "kind": KIND, MLFLOW_RUN_NAME: KIND}
            run = client.create_run(projection.experiment_id, tags=tags)
        run_id = str(run.info.run_id)
        if client.list_artifacts(run_id, FOLDER):  # a figure of data that are gone must not stay beside the new ones
            get_artifact_repository(run.info.artifact_uri, tracking_uri=plan.tracking_uri).delete_artifacts(FOLDER)
        with tempfile.TemporaryDirectory() as folder:
            for name, png in figures.items():
                (Path(folder) / f"{name}.png").write_bytes(png)
            client.log_artifacts(run_id, folder, FOLDER)
        if page:
            client.log_text(run_id, page, PAGE)
        client.set_terminated(run_id)
    return run_id
