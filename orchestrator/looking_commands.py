"""The commands that look at something: status, leaderboard, report, ui, doctor."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console

from orchestrator.options import (
    address_option,
    json_option,
    no_password,
    option,
    profile_option,
    require_sweeps,
    storage_option,
    sweep_argument,
)

# What the commands need is imported when they run, see sweep.py.


@click.command()
@sweep_argument("name")
@storage_option
@json_option
def leaderboard(name: str, storage: str, as_json: bool) -> None:
    """The best model of every target and method.

    \b
    sweep.py leaderboard demo
    sweep.py leaderboard demo --json | jq '.rows[] | select(.best_of_target)'
    """  # noqa: D301 - click wants the character itself
    from orchestrator.printing import print_leaderboard

    print_leaderboard(name, storage, as_json)


@click.command()
@sweep_argument("name")
@storage_option
@json_option
def status(name: str, storage: str, as_json: bool) -> None:
    """Progress of a sweep, target by target. Also while it runs elsewhere.

    \b
    sweep.py status demo
    watch -n 30 python sweep.py status nsd --storage s3://bucket/sweeps
    """  # noqa: D301 - click wants the character itself
    from orchestrator.printing import print_status

    print_status(name, storage, as_json)


@click.command()
@sweep_argument("name")
@storage_option
@json_option
def report(name: str, storage: str, as_json: bool) -> None:
    """Write all results into one HTML page. Its figures go to MLflow too.

    \b
    sweep.py report demo            results/demo/report.html
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    from orchestrator.report import write_report

    console = Console(stderr=as_json)
    page = write_report(name, storage, console)
    if as_json:
        click.echo(json.dumps({"page": str(page)}))
    else:
        console.print(f"Report in {page}", soft_wrap=True)


@click.command()
@option("--data", help="Data set of the sweep to come.")
@option("--weights", help="imagenet (default), random, or a .pth, .safetensors or .npz FILE.")
@option("--backbone", default="alexnet", show_default=True)
@option("--tracking-uri", help="MLflow server or database. Default: sqlite in --storage.")
@option("--ledger", help="Journal file or postgresql://… for the trials. Default: a journal in --storage.")
@option("--cluster", help="A cluster's file: cluster/gpu.yaml.")
@profile_option
@address_option
@storage_option
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """Look at everything that a sweep needs. Before it costs money; exit code 1 if something is wrong.

    \b
    sweep.py doctor                                    this machine
    sweep.py doctor --data DIR --weights FILE          what the sweep to come will read
    sweep.py doctor --cluster cluster/gpu.yaml         a cluster's file, before `ray up`
    """  # noqa: D301 - click wants the character itself
    from orchestrator.doctor import Needs, examine_and_print

    sys.exit(examine_and_print(Needs(**options), as_json))


@click.command()
@sweep_argument("name", required=False)
@option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@option(
    "--tracking-uri",
    callback=no_password,
    help="MLflow server or database. Default: that of the sweep or the storage.",
)
@option("--view", default="best", show_default=True, help="best, search, classification, curves, or an ROI: V1v.")
@storage_option
@json_option
def ui(name: str | None, port: int, tracking_uri: str | None, view: str, storage: str, as_json: bool) -> None:
    """Start the MLflow UI on this machine and say where to look.

    \b
    sweep.py ui demo                 the best model of every target and method
    sweep.py ui demo --view V1v      all trials of an ROI
    sweep.py ui demo --view search   temperature, cutoff and learning rate against the score
    """  # noqa: D301 - click wants the character itself
    from orchestrator.ui import serve

    serve(name, storage, tracking_uri, port, view, as_json)


LOOKING = (status, leaderboard, report, ui, doctor)
