"""Links into the MLflow UI that open on what people came for."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from orchestrator.tracking.client import connect, tracking_errors


def runs_view(experiment_id: str, search: str, order: str) -> str:
    """Fragment of a link to a flat, sorted list of runs.

    The UI opens in a mode for language models and hides metrics unless the link says otherwise.
    """
    query = urlencode(
        {
            "workflowType": "machine_learning",
            "searchFilter": search,
            "orderByKey": order,
            "orderByAsc": "false",
        },
        quote_via=quote,
    )
    return f"#/experiments/{experiment_id}/runs?{query}"


def best_models_view(tracking_uri: str, sweep: str) -> str:
    """Fragment of a link to all trials of ``sweep``, best validation score first; empty if MLflow has no such sweep.

    Raises:
        StorageError: MLflow cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        return ""
    return runs_view(experiment.experiment_id, "tags.kind = 'trial'", "metrics.`val/encoding_r`")
