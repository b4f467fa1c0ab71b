"""What the rehearsals of clusters have in common as scripts. Not run by itself."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.machines import USER, Machines, missing_tools
from benchmarks.steps import Steps

Rehearse = Callable[[Machines, Path, Steps], None]


def run_rehearsal(
    description: str | None, title: str, addresses: Mapping[str, str], rehearse: Rehearse, shared_home: bool = False
) -> int:
    """Make the machines, rehearse, print what happened; the exit code: 2 where this computer lacks what it takes.

    Args:
        description: of the script.
        title: of the table.
        addresses: of the machines by name.
        rehearse: given the machines, a folder of this computer and the list of steps.
        shared_home: whether all machines see one home.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an empty folder in which everything stays, to be looked at")
    asked = parser.parse_args()
    if lacks := missing_tools():
        print(f"this rehearsal {lacks}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder, steps, started = (asked.keep or Path(temporary)).resolve(), Steps(), time.monotonic()
        with Machines(folder, addresses, extras=("nod", "postgres"), shared_home=shared_home) as machines:
            steps.note("machines made", started, f"{len(addresses)} and the operator's; user {USER}")
            rehearse(machines, folder, steps)
        return steps.conclude(title)
