"""Registered models as files of this machine: nothing of theirs is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from orchestrator.passwords import without_password, without_passwords
from orchestrator.selected import close_to
from orchestrator.tracking.client import connect, tracking_errors
from trainables.errors import ConfigError, StorageError
from trainables.target import slug_of

SQLITE = "sqlite:///"


def download_model(uri: str, target: str, alias: str, dataset: str | None, folder: Path) -> Path:
    """The folder of a registered model's network and encoding model, as `ResponsePredictor.load` reads it.

    Args:
        uri: of the tracking server or database with the registry.
        target: ``subj01/lh/V1v``.
        alias: ``champion`` or a method.
        dataset: name of the data set; None where the target is in one alone.
        folder: where the files go.

    Raises:
        ConfigError: the registry has no such target or alias, or the target in several data sets.
        StorageError: there is no such registry, or its files cannot be read.
    """
    _, address = without_passwords(None, uri)
    uri = address or uri
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise StorageError(f"there is no model registry at {uri}; name a sweep, or the registry's tracking_uri")
    client = connect(uri)
    with tracking_errors(uri):
        name = _registered(client, uri, target, dataset)
        version = _version(client, name, target, alias)
        source = client.get_model_version_download_uri(name, version)
        downloaded = Path(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=uri))
    return downloaded / "data" / "predictor"


def _registered(client: MlflowClient, uri: str, target: str, dataset: str | None) -> str:
    names = {model.name: model.tags.get("dataset", "") for model in _all_models(client)}
    own = [name for name, of in names.items() if name == f"{of}.{slug_of(target)}" and dataset in (None, of)]
    if not own:
        where = f"the registry {without_password(uri)}"
        looked_for = f"{dataset or ''}.{slug_of(target)}".lstrip(".")
        raise ConfigError(f"target is {target!r}; expected one {close_to(looked_for, sorted(names))} in {where}")
    if len(own) > 1:
        sets = ", ".join(sorted(names[name] for name in own))
        raise ConfigError(f"{target} is registered for several data sets; choose one of them by dataset=: {sets}")
    return str(own[0])


def _all_models(client: MlflowClient) -> list[Any]:
    models: list[Any] = []
    token = None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        models += page
        token = page.token
        if not token:
            return models


def _version(client: MlflowClient, name: str, target: str, alias: str) -> str:
    known = client.get_registered_model(name).aliases
    if alias not in known:
        have = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{target} has no {alias} in the registry; it has the aliases {have}, so choose one of them")
    return str(known[alias])
