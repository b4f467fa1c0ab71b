#!/usr/bin/env python
"""The command line: ``python sweep.py --help``.

Every option can be given as an environment variable too (``--data`` as ``SWEEP_DATA``), so that a cluster's
configuration can hold them and the script needs no argument. Exit codes: 0 done; 1 an error, told in one sentence; 2 a
wrong option; 3 done, but some study has no score; 130 interrupted, ``resume`` goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 - who has an older one is told
    sys.exit(f"Error: this is Python {sys.version.split()[0]}; expected 3.11 or newer, such as that of .venv")
try:
    import click
except ImportError as error:
    sys.exit(
        f"Error: {sys.executable} lacks the package {error.name}; run it by .venv/bin/python, which `make environment` "
        "makes, or install this project there"
    )

from orchestrator.data_commands import data
from orchestrator.keeping_commands import KEEPING
from orchestrator.looking_commands import LOOKING
from orchestrator.options import (
    address_option,
    json_option,
    option,
    profile_option,
    require_sweeps,
    run_options,
    storage_option,
    sweep_argument,
)

# The commands import what they need when they run: torch, Ray and MLflow take seconds, `--help` should not.


class DefaultToRun(click.Group):
    """``sweep.py --data DIR`` means ``sweep.py run --data DIR``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front when no command is named; a shell that completes asks before any is."""
        if ctx.resilient_parsing and not args:
            return super().parse_args(ctx, args)
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "-h", "--version"}):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultToRun, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cortex-sweep")
def cli() -> None:
    """Tune feature extractors for the visual cortex: all subjects and ROIs in one sweep.

    \b
    sweep.py data demo demo-data                         make a small data set
    sweep.py run --data demo-data --space smoke --name demo
    sweep.py leaderboard demo                            best model of every target and method
    sweep.py ui demo                                     look at everything in MLflow
    sweep.py confirm demo                                the winners again on fresh seeds: was it luck?
    sweep.py select demo; sweep.py evaluate demo         register the winners, score them on test stimuli
    sweep.py report demo                                 figures and tables on one page
    sweep.py export subj01/lh/V1v DIR --name demo        a model as files that work without this program

    Every option can be set in the environment: --data as SWEEP_DATA, and so on. Exit codes: 0 done; 1 an error; 2 a
    wrong option; 3 done, but some study has no score; 130 interrupted, `resume` goes on.
    """  # noqa: D301 - click wants the character itself


@cli.command()
@run_options
def run(as_json: bool, dry_run: bool, machine: str | None, throughput: float | None, **options: Any) -> None:
    """Run a sweep, or the rest of one. More trials, targets or methods are added to one that exists.

    \b
    sweep.py run --data demo-data --space smoke --name demo                 a few small trials
    sweep.py run --data DIR --name nsd --subjects 1-8 --rois early,EBA      all subjects, some ROIs
    sweep.py run --data DIR --name nsd --subjects 1-8 --rois early --trials 40    more trials for all of them
    sweep.py run --data DIR --name nsd --dry-run                            what it would compute and cost
    """  # noqa: D301 - click wants the character itself
    from orchestrator.conclusion import run_to_the_end
    from orchestrator.launch import run as launch
    from orchestrator.planning import SweepOptions

    asked = SweepOptions(**options)
    if dry_run:
        from orchestrator.estimate import estimate_and_print

        estimate_and_print(asked, machine, throughput, as_json)
        return
    sys.exit(run_to_the_end(partial(launch, asked), asked.name, asked.storage, asked.address, as_json))


@cli.command()
@sweep_argument("name")
@option("--profile", help="Another profile than the one the sweep was made with.")
@address_option
@storage_option
@json_option
def resume(name: str, profile: str | None, address: str | None, storage: str, as_json: bool) -> None:
    """Go on with a sweep that was interrupted.

    \b
    sweep.py resume demo
    sweep.py resume nsd --address auto --storage s3://bucket/sweeps      on a cluster's head
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    from orchestrator.conclusion import run_to_the_end
    from orchestrator.launch import resume as launch

    again = partial(launch, name, storage, address, profile)
    sys.exit(run_to_the_end(again, name, storage, address, as_json))


@cli.command()
@sweep_argument("name")
@option("--seeds", type=int, default=5, show_default=True, help="Fresh seeds for each.")
@option("--candidates", type=int, default=1, show_default=True, help="Best trials of each study to run again.")
@option("--profile", help="Another profile than the one the sweep was made with.")
@address_option
@storage_option
@json_option
def confirm(
    name: str, seeds: int, candidates: int, profile: str | None, address: str | None, storage: str, as_json: bool
) -> None:
    """Run the winners again on fresh seeds. Mean and interval, so that no lucky seed is chosen.

    \b
    sweep.py confirm demo                                5 seeds of every winner, in the sweep demo-confirm
    sweep.py confirm demo --candidates 3 --seeds 4       of the three best of each study
    sweep.py select demo-confirm                         register those with the best mean
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    from orchestrator.confirmation import confirm_and_print

    sys.exit(confirm_and_print(name, storage, seeds, candidates, profile, address, as_json))


@cli.command()
@sweep_argument("name")
@option("--by", help="Only list what nothing beats in several scores at once: encoding,classification.")
@profile_option
@address_option
@storage_option
@json_option
def select(name: str, by: str | None, profile: str, address: str | None, storage: str, as_json: bool) -> None:
    """Register the best trial of every target and method. By validation score.

    \b
    sweep.py select demo
    sweep.py select demo --by encoding,classification    the Pareto set; registers nothing
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    if by:
        from orchestrator.pareto import pareto_and_print
        from orchestrator.plan import parse_list

        pareto_and_print(name, storage, parse_list(by), as_json)
        return
    from orchestrator.conclusion import select_and_print

    select_and_print(name, storage, profile, address, as_json)


@cli.command()
@sweep_argument("name")
@option(
    "--evaluations",
    default="encoding,transfer,information",
    show_default=True,
    help="encoding, transfer, information, classification, landscape, salience, or all.",
)
@option(
    "--labelled",
    multiple=True,
    help="Labelled image set for classification, landscape and the salience of classes; can be repeated.",
)
@option("--external", help="Another data set: transfer to its subjects too.")
@profile_option
@address_option
@storage_option
@json_option
def evaluate(
    name: str,
    evaluations: str,
    labelled: tuple[str, ...],
    external: str | None,
    profile: str,
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Score the selected models on test stimuli. No other command reads these.

    \b
    sweep.py evaluate demo                                       encoding, transfer, information
    sweep.py evaluate demo --evaluations all --labelled DIR      classification, landscape, salience too
    sweep.py evaluate demo --external OTHER-DATA                 transfer to subjects of another data set
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    from orchestrator.conclusion import evaluate_and_print
    from orchestrator.evaluation import EVALUATIONS, EvaluationOptions
    from orchestrator.plan import parse_list

    asked = EVALUATIONS if evaluations == "all" else tuple(parse_list(evaluations))
    evaluate_and_print(name, storage, EvaluationOptions(asked, labelled, external), profile, address, as_json)


for command in (data, *LOOKING, *KEEPING):
    cli.add_command(command)


def main() -> None:
    """Run the command that the arguments name; an expected error is one sentence."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    from orchestrator.passwords import take_from_environment
    from trainables.errors import CortexSweepError

    # Batch systems send SIGTERM: what Ctrl-C does, until Ray and the UI's server put their own handlers in its place.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        take_from_environment()
        code = cli.main(prog_name="sweep.py", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except CortexSweepError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort as ended:
        if isinstance(ended.__cause__ or ended.__context__, KeyboardInterrupt):
            click.echo("Interrupted; the same command goes on.", err=True)
            sys.exit(130)
        click.echo("Aborted.", err=True)  # a question that was answered by no, or not at all
        sys.exit(1)


if __name__ == "__main__":
    main()
