"""The commands about data sets."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from orchestrator.options import json_option


@click.group()
def data() -> None:
    """Look at a data set, or make the demo one."""


@data.command()
@click.argument("directory")
@json_option
def check(directory: str, as_json: bool) -> None:
    """Count stimuli and voxels, and find every fault. Exit code 1 if there is one that stops a sweep.

    \b
    sweep.py data check demo-data
    """  # noqa: D301 - click wants the character itself
    from orchestrator.data_report import check_and_print

    sys.exit(check_and_print(directory, as_json, Console(stderr=as_json)))


@data.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--subjects", type=click.IntRange(1, 8), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def demo(directory: Path, subjects: int, seed: int, as_json: bool) -> None:
    """Make the demo data set. Simulated responses with a known truth, in the Algonauts layout.

    \b
    sweep.py data demo demo-data --subjects 2
    """  # noqa: D301 - click wants the character itself
    from orchestrator.data_report import make_demo_and_print

    make_demo_and_print(directory, subjects, seed, as_json, Console(stderr=as_json))
