"""How S3 is spoken to, on the driver and on every node: patience, limits of time, errors in one sentence.

Loaded by fsspec when the first ``s3://`` address is used; `trainables.remote` registers it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, FlexibleChecksumError, IncompleteReadError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import S3_RETRYABLE_ERRORS, set_custom_error_handler

from trainables.errors import ConfigError
from trainables.remote import LEAST_SPEED, StoreError

ATTEMPTS = 4
"""Of botocore at one request, with waits of up to 1, 2 and 4 s, half of that on average."""

ROUNDS = 10
"""Of s3fs over botocore's attempts and the reading of the answer, with waits of 0.1 to 12 s: a minute in all. Most of
the waiting is here, since botocore stops its own where many requests fail at once."""

SILENCE_S = 30.0
"""How long nothing may come, unless SWEEP_S3_TIMEOUT says otherwise."""

CALL_S = 120.0
"""How long a request may take with all its attempts, a body that is sent at `LEAST_SPEED` left out."""

CONNECT_S = 5.0

STYLES = ("auto", "path", "virtual")

_EXPIRED = ("expired", "InvalidToken", "TokenRefreshRequired")
_REFUSED = ("credentials", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Bad Request")
_BUSY = ("SlowDown", "InternalError", "ServiceUnavailable", "(50", "timeout", "timed out", "Timeout", "in time")
_SKEWED = ("RequestTimeTooSkewed",)
_WRITES = ("abort", "complete", "create", "delete", "put", "upload")


class PatientS3(S3FileSystem):
    """s3fs that goes on trying for about a minute, never waits for ever, and raises OSError and its kinds alone."""

    retries = ROUNDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As s3fs, whose own arguments (and so FSSPEC_S3) come before the settings of the environment.

        Raises:
            ConfigError: a setting has no meaning.
        """
        config = connection_settings() | dict(kwargs.pop("config_kwargs", None) or {})
        client = dict(kwargs.pop("client_kwargs", None) or {})
        region = os.environ.get("AWS_REGION")  # which botocore, unlike other clients of AWS, does not read
        if region and not os.environ.get("AWS_DEFAULT_REGION"):
            client.setdefault("region_name", region)
        super().__init__(*args, config_kwargs=config, client_kwargs=client, **kwargs)

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        """See s3fs."""
        try:
            return await super().set_session(refresh, kwargs or {})
        except ValueError as error:
            remedy = "AWS_ENDPOINT_URL is an address such as https://minio.example.org:9000"
            raise StoreError("s3://", "reached", str(error), remedy) from error

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        place = "/".join(filter(None, (kwargs.get("Bucket"), kwargs.get("Key") or kwargs.get("Prefix"))))
        limit = CALL_S + len(kwargs.get("Body", b"")) / LEAST_SPEED
        with telling(place, "written" if method.startswith(_WRITES) else "read"):
            async with asyncio.timeout(limit):
                return await super()._call_s3(method, *akwarglist, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        with telling(self._strip_protocol(path), "read"):
            return await super()._cat_file(path, *args, **kwargs)

    async def _exists(self, path: str) -> bool:
        """Whether there is such a bucket, folder or file; a store that fails to say raises, in s3fs it means no."""
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    exists = sync_wrapper(_exists)

    async def _isfile(self, path: str) -> bool:
        """As `_exists`."""
        try:
            return bool((await self._info(path))["type"] == "file")
        except FileNotFoundError:
            return False

    async def _mkdir(self, path: str, acl: Any = False, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a bucket if that is what was asked for; a folder needs none, and must not make its bucket by mistake."""
        if "/" not in self._strip_protocol(path).rstrip("/"):
            await super()._mkdir(path, acl, create_parents, **kwargs)

    mkdir = sync_wrapper(_mkdir)


def connection_settings() -> dict[str, Any]:
    """What botocore is told beyond what it reads itself of the environment and of ``~/.aws/config``.

    Raises:
        ConfigError: a setting has no meaning.
    """
    silence = _seconds("SWEEP_S3_TIMEOUT", SILENCE_S)
    retries: dict[str, Any] = {}
    if not os.environ.get("AWS_RETRY_MODE"):
        retries["mode"] = "standard"
    if not os.environ.get("AWS_MAX_ATTEMPTS"):
        retries["total_max_attempts"] = ATTEMPTS
    settings = {"connect_timeout": min(CONNECT_S, silence), "read_timeout": silence, "retries": retries}
    if style := os.environ.get("SWEEP_S3_ADDRESSING_STYLE"):
        if style not in STYLES:
            raise ConfigError(f"SWEEP_S3_ADDRESSING_STYLE is {style!r}; expected one of {', '.join(STYLES)}")
        settings["s3"] = {"addressing_style": style}
    return settings


def may_pass(error: Exception) -> bool:
    """Whether to try again after an error that s3fs does not count among those that pass."""
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return status >= 500 or status == 429 or isinstance(error, FlexibleChecksumError | IncompleteReadError)


@contextmanager
def telling(place: str, action: str) -> Iterator[None]:
    """Turn what a store or the network raises into a `StoreError`; what is missing stays FileNotFoundError."""
    try:
        yield
    except (StoreError, FileNotFoundError, FileExistsError):
        raise
    except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
        reason = _reason(error)
        raise StoreError(f"s3://{place}", action, reason, _remedy(f"{reason} {error.__cause__}")) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or "no answer came in time"
    return " ".join(str(reason).split()).rstrip(".")


def _remedy(text: str) -> str:
    if any(word in text for word in _EXPIRED):
        return "renew the credentials, then go on: what had finished is kept"
    if any(word in text for word in _REFUSED):
        return "see whether the credentials are set, have not expired and may do this there"
    if any(word in text for word in _SKEWED):
        return "set this machine's clock by a time server (chrony, ntp)"
    if any(word in text for word in _BUSY):
        return "the store failed at every attempt: go on when it is well, what had finished is kept"
    return "check the address, the region, the network and AWS_ENDPOINT_URL"


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name} is {text!r}; expected a number of seconds above 0")
    return seconds


set_custom_error_handler(may_pass)
