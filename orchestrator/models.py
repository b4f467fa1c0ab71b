"""Selected models for Python programs and notebooks: ``from orchestrator.models import load_champion``.

docs/python.md shows what to do with them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator.estimators import EncodingModel
from orchestrator.selected import find_model
from orchestrator.storage import SweepStorage
from trainables.errors import ConfigError
from trainables.predictor import ResponsePredictor

CHAMPION = "champion"


def load_champion(
    target: str,
    *,
    sweep: str | None = None,
    storage: str = "results",
    dataset: str | None = None,
    tracking_uri: str | None = None,
    device: str = "auto",
) -> EncodingModel:
    """The best model of a target by validation score, over all methods.

    Args:
        target: ``subj01/lh/V1v``.
        sweep: name of the sweep that selected it; without one the model registry is asked, which knows one champion
            for each data set and target, whichever sweep it comes from.
        storage: folder or ``s3://`` address of all results.
        dataset: name of the data set, for a registry with the target in several; nothing else reads it.
        tracking_uri: MLflow server or database with the registry; that of the storage by default.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``.

    Raises:
        ConfigError: no such target, or none that is a champion.
        StorageError: no such sweep, nothing selected, or the registry cannot be reached.
        WeightsError: files of the model that are missing or damaged.
    """
    return _load(target, None, sweep, storage, dataset, tracking_uri, device)


def load_model(
    target: str,
    method: str,
    *,
    sweep: str | None = None,
    storage: str = "results",
    dataset: str | None = None,
    tracking_uri: str | None = None,
    device: str = "auto",
) -> EncodingModel:
    """The best model of a target and a method: ``contrastive``, ``regression``, ``untuned``, ``pooled-avg``, ….

    Other arguments and errors are those of `load_champion`.
    """
    return _load(target, method, sweep, storage, dataset, tracking_uri, device)


def _load(
    target: str,
    method: str | None,
    sweep: str | None,
    storage: str,
    dataset: str | None,
    tracking_uri: str | None,
    device: str,
) -> EncodingModel:
    if sweep is not None:
        if tracking_uri is not None:
            raise ConfigError(
                f"both sweep ({sweep!r}) and tracking_uri are given; a sweep's models lie in its storage, so leave one "
                "of them out"
            )
        directory = find_model(SweepStorage(storage, sweep), target, method).directory
        return EncodingModel(ResponsePredictor.load(directory, device))
    from orchestrator.tracking.download import download_model  # MLflow takes seconds

    uri = tracking_uri or SweepStorage(storage, "all").default_tracking_uri
    with tempfile.TemporaryDirectory() as folder:
        downloaded = download_model(uri, target, method or CHAMPION, dataset, Path(folder))
        return EncodingModel(ResponsePredictor.load(downloaded, device))
