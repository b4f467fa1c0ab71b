"""An S3 server for tests, and a bucket that is reached through a proxy which fails as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from upath import UPath

BUCKET = "laboratory"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a fresh server."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def speak_to(address: str, patch: pytest.MonkeyPatch) -> None:
    """Let every client of this process and of those that it starts use the server at ``address``."""
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_connections()


def forget_connections() -> None:
    """Settings are read when a file system is made; listings of what was there are kept with it."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def forget_listings() -> None:
    """Let what was seen be looked at again; connections, which take long to make, stay."""
    UPath(f"s3://{BUCKET}").fs.invalidate_cache()


@contextmanager
def bucket(server: str) -> Iterator[Any]:
    """The bucket, made on ``server`` by a client that no proxy disturbs; it is emptied and removed at the end."""
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        yield client
    finally:
        for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        for name in names(client):
            client.delete_object(Bucket=BUCKET, Key=name)
        client.delete_bucket(Bucket=BUCKET)
        forget_connections()


def names(client: Any, prefix: str = "") -> list[str]:
    """Objects that a reader can see."""
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def upload(client: Any, root: Path) -> str:
    """Put a folder into the bucket."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        client.upload_file(str(path), BUCKET, str(path.relative_to(root.parent)))
    forget_connections()
    return f"s3://{BUCKET}/{root.name}"
