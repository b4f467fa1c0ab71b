"""Types the commands of a page as a reader does: in a folder that holds this program, with a home of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.documented import ROOT
from tests.sweeps import environment

PROGRAM = ("sweep.py", "benchmarks", "cluster", "constraints.txt")
"""What a command expects in the folder in which it is typed."""
LIMIT_SECONDS = 900
START_SECONDS = 180


@dataclass
class Desk:
    """A folder in which commands are typed one after the other."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    """The environment, besides that of all tests."""
    replaced: dict[str, str] = field(default_factory=dict)
    """What a page leaves to its reader, and what stands there here; the longest is replaced first."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)
        for name in PROGRAM:
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(sys.prefix)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def as_typed(self, line: str) -> str:
        for theirs, ours in sorted(self.replaced.items(), key=lambda pair: -len(pair[0])):
            line = re.sub(rf"(?<![\w.-]){re.escape(theirs)}(?![\w.-])", ours.replace("\\", r"\\"), line)
        return line

    def type(self, line: str, answers: str = "", without: Collection[str] = ()) -> tuple[int, str]:
        """Exit code and all that is shown; it goes to a file, since a pipe stays open as long as a process of Ray's."""
        log = self.folder / "typed.log"
        with log.open("w") as shown:
            typed = subprocess.Popen(
                ["bash", "-c", self.as_typed(line)],
                cwd=self.folder,
                env=self._environment(without),
                stdin=subprocess.PIPE,
                stdout=shown,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            typed.communicate(answers.encode(), LIMIT_SECONDS)
        finally:
            _end(typed)
        return typed.returncode, log.read_text()

    def serve(self, line: str) -> tuple[int, str, str, str]:
        """As `type`, for a command that serves until Ctrl-C; also the link that it shows, and what is there."""
        log = self.folder / "served.log"
        with log.open("w") as shown:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {self.as_typed(line)}"],
                cwd=self.folder,
                env=self._environment(),
                stdout=shown,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            link = self._link(server, log)
            with urllib.request.urlopen(link, timeout=60) as answer:
                page = answer.read().decode()
            os.killpg(server.pid, signal.SIGINT)
            return server.wait(60), log.read_text(), link, page
        finally:
            _end(server)

    def _link(self, server: subprocess.Popen[bytes], log: Path) -> str:
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"^Open +(\S+)$", log.read_text(), re.MULTILINE)):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return found[1]

    def _environment(self, without: Collection[str] = ()) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"HOME": str(self.home), "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        told = {**environment(), **own, **self.settings}
        return {name: value for name, value in told.items() if name not in without}


def _end(process: subprocess.Popen[bytes]) -> None:
    """What has not ended of itself, with all that it started: a driver that hears SIGTERM stops its Ray."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
