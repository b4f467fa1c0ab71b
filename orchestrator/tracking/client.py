"""A connection to MLflow, quiet and with errors in one sentence."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Read by MLflow when it is imported: a few quick attempts here, as the projection itself tries again for ever.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
if style := os.environ.get("SWEEP_S3_ADDRESSING_STYLE"):  # its client of artifacts on S3 is another one than ours
    os.environ.setdefault("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style)
# Before a server MLflow prints two lines for each run that ends, also where --json promises JSON alone.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.passwords import without_password
from trainables.errors import StorageError

ARTIFACT_ERRORS = (Boto3Error, BotoCoreError, ClientError)
"""What artifacts on S3 that cannot be reached raise."""

TRACKING_ERRORS = (MlflowException, SQLAlchemyError, OSError, *ARTIFACT_ERRORS)
"""What a tracking server that is away, or a database that is full, raises."""


def is_server(uri: str) -> bool:
    """Whether an MLflow server stands before the database."""
    return uri.startswith(("http://", "https://"))


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one sentence."""
    try:
        yield
    except StorageError:  # a sentence already, and about something else
        raise
    except TRACKING_ERRORS as error:
        raise StorageError(f"MLflow at {without_password(uri)} {_complaint(error, uri)}") from error


def _complaint(error: Exception, uri: str) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0].replace(uri, without_password(uri))
    if isinstance(error, ARTIFACT_ERRORS):
        return (
            f"cannot reach its artifacts ({reason}); is AWS_ENDPOINT_URL right, have the credentials expired, do they "
            "lack the right? Then go on"
        )
    status = error.get_http_status_code() if is_server(uri) and isinstance(error, MlflowException) else None
    if status == 401:
        return (
            "refuses the user name or the password; put them into ~/.mlflow/credentials, or into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if status == 403 and "Invalid Host header" in reason:
        return "does not go by the name in this address; use another, or add it to the server's --allowed-hosts"
    if status == 403:
        return f"does not let this user do that ({reason}); ask its administrator for the permission MANAGE"
    return f"does not answer as expected ({reason}); check --tracking-uri"


def connect(uri: str) -> MlflowClient:
    """A client of the tracking server and model registry at ``uri``; a fresh SQLite file gets its tables now.

    One process has to make the tables: several that open a fresh file at once collide.

    Raises:
        StorageError: there is no such server or database.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints the traceback of each error of the database, which is raised too and told in one sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with tracking_errors(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client


def artifact_comes_back(client: MlflowClient, run_id: str) -> bool:
    """Whether an artifact of a run can be written, read and deleted: figures and models come late in a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        client.log_text(run_id, "probe", "probe.txt")
        intact = Path(client.download_artifacts(run_id, "probe.txt", folder)).read_text() == "probe"
    place = client.get_run(run_id).info.artifact_uri
    get_artifact_repository(place, tracking_uri=client.tracking_uri).delete_artifacts("probe.txt")
    return intact
