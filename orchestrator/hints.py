"""The commands that are named to people, as they start from the shell that shows them; and how many of a thing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(*arguments: str) -> str:
    """``python sweep.py resume demo --storage results``, quoted, for ``arguments`` of ``sweep.py``.

    The interpreter is the one that runs this, by its shortest name: a newcomer who typed ``make sweep`` has no
    activated environment, and another ``python`` would miss every package. Where a cluster's file started it, people
    sit elsewhere, and SWEEP_COMMAND has what they type in place of ``python sweep.py``.
    """
    if elsewhere := os.environ.get("SWEEP_COMMAND"):
        return f"{elsewhere} {shlex.join(arguments)}"
    return shlex.join([_interpreter(), _script(), *arguments])


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 study``, ``2 studies``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def joined(address: str | None) -> tuple[str, ...]:
    """The option that joins the same cluster again; none where the environment names it, or Ray was of this machine."""
    return ("--address", address) if address and os.environ.get("SWEEP_ADDRESS") != address else ()


def _interpreter() -> str:
    found = shutil.which("python")
    if found and _same_place(found, sys.executable):
        return "python"
    inside = _from_here(Path(sys.executable))
    return str(inside) if inside else sys.executable


def _script() -> str:
    typed = Path(sys.argv[0])
    if typed.name != "sweep.py":
        return "sweep.py"
    return str(_from_here(typed.absolute()) or typed)


def _same_place(one: str, other: str) -> bool:
    # Not resolved: the interpreters of all environments are links to one file.
    return Path(one).absolute() == Path(other).absolute()


def _from_here(path: Path) -> Path | None:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else None
