"""The command line: ``python sweep.py --help``.

Every option can be given as an environment variable too (``--data`` as ``SWEEP_DATA``), so that a cluster's
configuration can hold them and the script needs no argument. Exit codes: 0 done; 1 an error, told in one sentence; 2 a
wrong option; 3 done, but some study has no score; 130 interrupted, ``resume`` goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

# The commands import what they need when they run: torch, Ray and MLflow take seconds, `--help` should not.


class DefaultToRun(click.Group):
    """``sweep.py --data DIR`` means ``sweep.py run --data DIR``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front when no command is named."""
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "-h", "--version"}):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """A click option with its environment variable."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "SWEEP_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


storage_option = option("--storage", default="results", show_default=True, help="Folder or s3://… for all results.")
profile_option = option(
    "--profile",
    default="auto",
    show_default=True,
    help="How resources become slots: auto, cpu, gpu or gpu-shared; settings may follow: gpu-shared,max_slots=64.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone, for scripts.")
address_option = option(
    "--address", help="Ray cluster to join; `auto` on a cluster's head. Default: Ray on this machine."
)


@click.group(cls=DefaultToRun, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cortex-sweep")
def cli() -> None:
    """Tune feature extractors for the visual cortex: all subjects and ROIs in one sweep.

    \b
    sweep.py data demo demo-data                         make a small data set
    sweep.py run --data demo-data --space smoke --name demo
    sweep.py leaderboard demo                            best model of every target and method
    sweep.py select demo; sweep.py evaluate demo         register the winners, score them on test stimuli
    sweep.py ui                                          look at everything in MLflow

    Every option can be set in the environment: --data as SWEEP_DATA, and so on.
    """  # noqa: D301 - click wants the character itself


@cli.command()
@option("--data", required=True, help="Data set in the Algonauts layout: a folder or s3://….")
@option("--name", required=True, help="Name of the sweep.")
@option("--subjects", default="all", show_default=True, help="1-8, 1,3 or subj01,subj02.")
@option("--hemispheres", default="lh,rh", show_default=True)
@option("--rois", help="ROIs and groups: early,EBA. Default: those of --space.")
@option("--methods", help="contrastive, regression, untuned, pooled-avg, pooled-const. Default: those of --space.")
@option(
    "--space",
    default="early_visual",
    show_default=True,
    help="smoke, early_visual, full, contrastive, regression, untuned, pooled, objectives, mixed, published, or a "
    ".py FILE with a SPACE.",
)
@option("--protocol", default="nested", show_default=True, help="nested, published-a or published-b.")
@option("--backbone", default="alexnet", show_default=True, help="alexnet, vgg11, resnet18, resnet50, convnext_tiny.")
@option("--encoder", default="ridge", show_default=True, help="Encoding model: ridge or pls.")
@option("--explore", default="", help="Also explore batch_size, epochs, weight_decay.")
@option(
    "--scores",
    default="encoding",
    show_default=True,
    help="Validation scores of every trial: encoding,transfer,classification.",
)
@option(
    "--optimise",
    default="encoding",
    show_default=True,
    help="Scores to search by; several mean their Pareto set, without pruning.",
)
@option("--labelled", default="", help="Labelled image set for --scores classification.")
@option("--leave-one-out", is_flag=True, help="Pooled methods: also one network without each subject.")
@option("--trials", type=int, help="Trials of each tuned target and method. Default: that of --space.")
@option("--epochs", type=int, help="Epochs of a trial that is not pruned. Default: that of --space.")
@option("--grace-epochs", type=int, help="Epochs before a trial can be pruned. Default: a third of --epochs.")
@option("--batch-size", type=int, help="Stimuli in a step. Default: that of --space.")
@option(
    "--cutoffs", help="Layer cutoffs to explore: features.9,features.12. Default: all that weights and --space allow."
)
@option("--weights", help="imagenet (default), random, or a .pth, .safetensors or .npz FILE.")
@option("--tracking-uri", help="MLflow server or database. Default: sqlite in --storage.")
@option("--ledger", help="Journal file or postgresql://… for the trials. Default: a journal in --storage.")
@option(
    "--keep-weights", type=int, default=1, show_default=True, help="Best trials of each study whose weights are kept."
)
@profile_option
@option("--seed", type=int, default=0, show_default=True)
@option("--min-voxels", type=int, default=20, show_default=True, help="Smaller ROIs are skipped and reported.")
@address_option
@storage_option
@json_option
def run(as_json: bool, **options: Any) -> None:
    """Run a sweep, or the rest of one that was made with the same options."""
    from orchestrator.conclusion import run_to_the_end
    from orchestrator.launch import run as launch
    from orchestrator.planning import SweepOptions

    asked = SweepOptions(**options)
    sys.exit(run_to_the_end(partial(launch, asked), asked.name, asked.storage, asked.address, as_json))


@cli.command()
@click.argument("name")
@option("--profile", help="Another profile than the one the sweep was made with.")
@address_option
@storage_option
@json_option
def resume(name: str, profile: str | None, address: str | None, storage: str, as_json: bool) -> None:
    """Go on with a sweep that was interrupted."""
    from orchestrator.conclusion import run_to_the_end
    from orchestrator.launch import resume as launch

    again = partial(launch, name, storage, address, profile)
    sys.exit(run_to_the_end(again, name, storage, address, as_json))


@cli.command()
@click.argument("name")
@storage_option
@json_option
def leaderboard(name: str, storage: str, as_json: bool) -> None:
    """The best model of every target and method."""
    from orchestrator.printing import print_leaderboard

    print_leaderboard(name, storage, as_json)


@cli.command()
@click.argument("name")
@storage_option
@json_option
def status(name: str, storage: str, as_json: bool) -> None:
    """Progress of a sweep, target by target; also while it runs elsewhere."""
    from orchestrator.printing import print_status

    print_status(name, storage, as_json)


@cli.command(name="list")
@storage_option
@json_option
def list_sweeps(storage: str, as_json: bool) -> None:
    """The sweeps in a storage."""
    from orchestrator.storage import sweep_names

    names = sweep_names(storage)
    if as_json:
        click.echo(json.dumps(names))
    else:
        click.echo("\n".join(names) or f"no sweep in {storage} yet; `sweep.py run --data DIR --name NAME` makes one")


@cli.command()
@click.argument("name")
@profile_option
@address_option
@storage_option
@json_option
def select(name: str, profile: str, address: str | None, storage: str, as_json: bool) -> None:
    """Register the best trial of every target and method, by validation score."""
    from orchestrator.conclusion import select_and_print

    select_and_print(name, storage, profile, address, as_json)


@cli.command()
@click.argument("name")
@option(
    "--evaluations",
    default="encoding,transfer,information",
    show_default=True,
    help="encoding, transfer, information, classification, landscape, salience, or all.",
)
@option("--labelled", multiple=True, help="Labelled image set for classification and landscape; can be repeated.")
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
    """Score the selected models on test stimuli; the only command that reads them."""
    from orchestrator.conclusion import evaluate_and_print
    from orchestrator.evaluation import EVALUATIONS, EvaluationOptions
    from orchestrator.plan import parse_list

    asked = EVALUATIONS if evaluations == "all" else tuple(parse_list(evaluations))
    evaluate_and_print(name, storage, EvaluationOptions(asked, labelled, external), profile, address, as_json)


@cli.command()
@click.argument("name")
@storage_option
def report(name: str, storage: str) -> None:
    """Write all results into one HTML page, and its figures to MLflow."""
    from orchestrator.report import write_report

    console = Console()
    page = write_report(name, storage, console)
    console.print(f"Report in {page}", soft_wrap=True)


@cli.command()
@click.argument("name", required=False)
@option("--port", type=int, default=5000, show_default=True)
@option("--tracking-uri", help="MLflow server or database. Default: that of the sweep or the storage.")
@storage_option
def ui(name: str | None, port: int, tracking_uri: str | None, storage: str) -> None:
    """Start the MLflow UI on this machine and say where to look."""
    from orchestrator.ui import serve

    serve(name, storage, tracking_uri, port, Console())


@cli.group()
def data() -> None:
    """Look at a data set, or make the demo one."""


@data.command()
@click.argument("directory")
@json_option
def check(directory: str, as_json: bool) -> None:
    """Count stimuli and voxels, and find every fault; exit code 1 if there is one that stops a sweep."""
    from orchestrator.data_report import check_and_print

    sys.exit(check_and_print(directory, as_json, Console(stderr=as_json)))


@data.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--subjects", type=click.IntRange(1, 8), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def demo(directory: Path, subjects: int, seed: int) -> None:
    """Make the demo data set: simulated responses with a known truth, in the Algonauts layout."""
    from orchestrator.data_report import make_demo_and_print

    make_demo_and_print(directory, subjects, seed, Console())


def main() -> None:
    """Run the command that the arguments name; an expected error is one sentence."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    from trainables.errors import CortexSweepError

    try:
        cli.main(prog_name="sweep.py")
    except CortexSweepError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
