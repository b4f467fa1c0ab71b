"""A store, and a bucket in it that no proxy disturbs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.remote.fault_proxy import FaultProxy, fault_proxy
from tests.remote.s3 import bucket, s3_server, speak_to


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The store's address."""
    with s3_server() as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    """A client of the bucket, which is made for the test and removed with it."""
    with bucket(server) as client:
        yield client


@pytest.fixture
def proxy(server: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between the store and everything that is tested."""
    with fault_proxy(server) as proxy:
        speak_to(proxy.address, monkeypatch)
        yield proxy
