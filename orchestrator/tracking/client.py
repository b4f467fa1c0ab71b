"""A connection to MLflow, quiet and with errors in one sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Read by MLflow when it is imported: a few quick attempts here, as the projection itself tries again for ever.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
if style := os.environ.get("SWEEP_S3_ADDRESSING_STYLE"):  # its client of artifacts on S3 is another one than ours
    os.environ.setdefault("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style)

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.storage import without_password
from trainables.errors import StorageError

ARTIFACT_ERRORS = (Boto3Error, BotoCoreError, ClientError)
"""What artifacts on S3 that cannot be reached raise."""

TRACKING_ERRORS = (MlflowException, SQLAlchemyError, OSError, *ARTIFACT_ERRORS)
"""What a tracking server that is away, or a database that is full, raises."""


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one sentence."""
    try:
        yield
    except StorageError:  # a sentence already, and about something else
        raise
    except TRACKING_ERRORS as error:
        reason, shown = str(error).splitlines()[0], without_password(uri)
        reason = reason.replace(uri, shown)
        if isinstance(error, ARTIFACT_ERRORS):
            raise StorageError(
                f"artifacts of MLflow at {shown} cannot be reached ({reason}); is AWS_ENDPOINT_URL right,"
                " have the credentials expired, do they lack the right? Then go on"
            ) from error
        raise StorageError(f"MLflow at {shown} does not answer as expected ({reason}); check --tracking-uri") from error


def connect(uri: str) -> MlflowClient:
    """A client of the tracking server and model registry at ``uri``; a fresh SQLite file gets its tables now.

    One process has to make the tables: several that open a fresh file at once collide.

    Raises:
        StorageError: there is no such server or database.
    """
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with tracking_errors(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client
