"""The packages of this environment that the project needs at run time, laid out for the machines of a rehearsal.

A rehearsal that installed them anew would download 5 GB for each machine. One that showed the whole of this environment
would hide what the project forgot to require. So the machines see what `pip install cortex-sweep[extras]` brings.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SEEN_AS = "/opt/site-packages"
"""Where a machine sees this environment's packages."""


def project_requirements(extras: Sequence[str]) -> list[str]:
    """What pyproject.toml requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def runtime_packages(extras: Sequence[str]) -> tuple[dict[str, Distribution], list[str]]:
    """Distributions by name that the project needs, with what they need; and names of those that are not here."""
    found: dict[str, Distribution] = {}
    absent: list[str] = []
    seen: set[tuple[str, str]] = set()
    left = [Requirement(line) for line in project_requirements(extras)]
    while left:
        requirement = left.pop()
        name = canonical(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                absent.append(name)
                break
            left += _required(found[name], extra)
    return found, sorted(set(absent))


def _required(dist: Distribution, extra: str) -> Iterator[Requirement]:
    for line in dist.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def canonical(name: str) -> str:
    """A package's name as indices know it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def prepare_packages(opt: Path, extras: Sequence[str]) -> list[Distribution]:
    """Links to the packages in ``opt/packages``, wheels of missing ones in ``opt/wheels``; the distributions linked."""
    packages, wheels = opt / "packages", opt / "wheels"
    packages.mkdir(parents=True)
    wheels.mkdir()
    found, absent = runtime_packages(extras)
    for dist in found.values():
        tops = {file.parts[0] for file in dist.files or []} - {"..", "__pycache__"}
        for top in tops:
            link = packages / top
            if not link.is_symlink():  # several share a namespace
                link.symlink_to(f"{SEEN_AS}/{top}")
    pinned = ["--constraint", str(ROOT / "constraints.txt")]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *pinned]
    subprocess.run([*download, "setuptools", *absent], check=True)
    return list(found.values())


def write_scripts(venv: Path, seen_as: str, dists: Sequence[Distribution]) -> None:
    """Make the packages part of ``venv``, which its user sees at ``seen_as``: a path file, and their commands."""
    (site,) = venv.glob("lib/python3.*/site-packages")
    (site / "prepared.pth").write_text("/opt/packages\n")
    for dist in dists:
        for entry in dist.entry_points:
            script = venv / "bin" / entry.name
            if entry.group != "console_scripts" or script.exists():
                continue
            name = entry.attr.partition(".")[0]
            call = f"import sys\nfrom {entry.module} import {name}\nsys.exit({entry.attr}())\n"
            script.write_text(f"#!{seen_as}/bin/python\n{call}")
            script.chmod(0o755)
