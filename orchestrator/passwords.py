"""Passwords of the ledger and of MLflow: the driver's alone.

They come from where their libraries look: ``~/.pgpass`` or PGPASSWORD, ``~/.mlflow/credentials`` or MLFLOW_TRACKING_….
One that stands in an address is moved there, so that no plan, log or experiment holds it; and Ray's processes do not
inherit it, since a worker needs neither the ledger nor MLflow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from urllib.parse import unquote

from trainables.errors import ConfigError

SECRETS = ("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Environment variables that no process of Ray inherits."""
WITH_PASSWORD = re.compile(
    r"(?:(?P<web>https?)://(?P<web_user>[^:@/]*):(?P<web_password>[^\s/]*)"
    r"|(?P<scheme>(?<![\w+.-])(?!https?:)[A-Za-z][\w+.-]*)://(?P<user>[^:@/]*):(?P<password>\S*))@(?P<rest>\S*)"
)
"""What follows the last ``@`` is the host. Before it a database's password may hold any character but a blank; one of a
web address has no slash, which would begin the path."""
IN_QUERY = re.compile(r"(?P<before>[?&])password=(?P<password>[^&]*)(?P<after>&?)")
OPTIONS = ("--ledger", "--tracking-uri")


def holds_password(address: str) -> bool:
    """Whether a password stands in the address of a database or server."""
    return bool(WITH_PASSWORD.fullmatch(address) or ("://" in address and IN_QUERY.search(address)))


def without_password(text: str) -> str:
    """The address of a database or server as it may be shown."""

    def hidden(match: re.Match[str]) -> str:
        scheme, user, _, rest = _parts(match)
        return f"{scheme}://{user}:***@{rest}"

    return IN_QUERY.sub(r"\g<before>password=***\g<after>", WITH_PASSWORD.sub(hidden, text))


def _parts(match: re.Match[str]) -> tuple[str, str, str, str]:
    """Scheme, user, password and the rest."""
    names = ("web", "web_user", "web_password") if match["web"] else ("scheme", "user", "password")
    scheme, user, password = (match[name] for name in names)
    return scheme, user, password, match["rest"]


def without_passwords(ledger: str | None, tracking_uri: str | None) -> tuple[str | None, str | None]:
    """Both addresses without their passwords, which this process keeps in its environment from now on.

    Raises:
        ConfigError: a password has no place to go: of another database than PostgreSQL, or a second one.
    """
    found: dict[str, str] = {}
    left = [_taken_out(text, option, found) for text, option in zip((ledger, tracking_uri), OPTIONS, strict=True)]
    os.environ.update(found)
    return left[0], left[1]


def _taken_out(address: str | None, option: str, found: MutableMapping[str, str]) -> str | None:
    while address is not None and holds_password(address):  # one may stand before the host and one behind it
        address = _one_taken_out(address, option, found)
    return address


def _one_taken_out(address: str, option: str, found: MutableMapping[str, str]) -> str:
    if match := WITH_PASSWORD.fullmatch(address):
        scheme, user, password, rest = _parts(match)
        web = scheme in ("http", "https")
        left = f"{scheme}://{rest}" if web or not user else f"{scheme}://{user}@{rest}"
    elif match := IN_QUERY.search(address):
        scheme, web, user, password = address.split("://")[0], False, "", match["password"]
        joint = match["before"] if match["after"] else ""
        left = address[: match.start()] + joint + address[match.end() :]
    else:
        return address
    if web:
        found["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    elif not scheme.startswith("postgresql"):
        raise ConfigError(
            f"{option} holds a password of {scheme}://, which would be kept with the plan; use postgresql://, or a "
            "database that needs none"
        )
    place = "MLFLOW_TRACKING_PASSWORD" if web else "PGPASSWORD"
    if found.setdefault(place, unquote(password)) != unquote(password):
        raise ConfigError(f"--ledger and {option} hold two passwords of PostgreSQL; put both into ~/.pgpass instead")
    return left


def take_from_environment() -> None:
    """Take the passwords out of SWEEP_LEDGER and SWEEP_TRACKING_URI, for every command of this process.

    Raises:
        ConfigError: see `without_passwords`.
    """
    names = ("SWEEP_LEDGER", "SWEEP_TRACKING_URI")
    for name, address in zip(names, without_passwords(*(os.environ.get(name) for name in names)), strict=True):
        if address is not None:
            os.environ[name] = address


def known_passwords() -> dict[str, str]:
    """Those that this process has in its environment, for one of its own that serves the ledger or MLflow."""
    return {name: os.environ[name] for name in SECRETS if name in os.environ}


@contextmanager
def not_inherited() -> Iterator[None]:
    """While processes are started that are to know no password: they inherit the environment of that moment."""
    taken = known_passwords()
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)
