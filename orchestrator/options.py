"""Options that several commands have, each with its environment variable: ``--data`` is SWEEP_DATA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from orchestrator.passwords import holds_password
from trainables.errors import ConfigError, CortexSweepError


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """A click option with its environment variable."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "SWEEP_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


def no_password(context: click.Context, parameter: click.Parameter, address: str | None) -> str | None:
    """``address``, unless a password stands in it that was typed.

    Raises:
        ConfigError: others see it in the list of processes, and Ray shows the command that started a job.
    """
    typed = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if typed and address and holds_password(address):
        place = "~/.pgpass or PGPASSWORD" if address.startswith("postgresql") else "~/.mlflow/credentials"
        raise ConfigError(
            f"{parameter.opts[0]} holds a password, which others can read in the list of processes; put it into {place}"
        )
    return address


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


def sweep_argument(name: str, **settings: Any) -> Callable[[Any], Any]:
    """The name of a sweep; shells complete it from the storage."""
    return click.argument(name, shell_complete=_sweeps, **settings)


def _sweeps(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from orchestrator.storage import sweep_names

    with suppress(CortexSweepError):
        return [
            name for name in sweep_names(str(context.params.get("storage", "results"))) if name.startswith(incomplete)
        ]
    return []


def _spaces(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Named spaces; of anything else, the shell's own files."""
    from search_spaces import SPACES

    found = [CompletionItem(name) for name in SPACES if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def require_sweeps(storage: str, *names: str) -> None:
    """Refuse a name that no sweep has, before anything is loaded that takes seconds.

    Raises:
        StorageError: the message lists those that there are.
    """
    from orchestrator.selected import require_sweep
    from orchestrator.storage import SweepStorage

    for name in names:
        require_sweep(SweepStorage(storage, name))


def run_options(command: Any) -> Any:
    """Every option of ``sweep.py run``, in the order of its help."""
    for decorate in reversed(_RUN):
        command = decorate(command)
    return command


_RUN: list[Callable[[Any], Any]] = [
    option("--data", required=True, help="Data set, a folder or s3://…: Algonauts layout, NOD, or own data."),
    option("--name", required=True, help="Name of the sweep."),
    option("--subjects", help="1-8, 1,3 or subj01,subj02. Default: all."),
    option("--hemispheres", help="lh or rh. Default: both."),
    option("--rois", help="ROIs and groups: early,EBA. Default: those of --space."),
    option("--methods", help="contrastive, regression, untuned, pooled-avg, pooled-const. Default: those of --space."),
    option(
        "--space",
        shell_complete=_spaces,
        help="smoke, early_visual, full, contrastive, regression, untuned, pooled, objectives, mixed, published, or a "
        ".py FILE with a SPACE. Default: early_visual; that of a sweep that exists.",
    ),
    option("--protocol", default="nested", show_default=True, help="nested, published-a or published-b."),
    option(
        "--backbone", default="alexnet", show_default=True, help="alexnet, vgg11, resnet18, resnet50, convnext_tiny."
    ),
    option("--encoder", default="ridge", show_default=True, help="Encoding model: ridge or pls."),
    option("--explore", default="", help="Also explore batch_size, epochs, weight_decay."),
    option(
        "--scores",
        default="encoding",
        show_default=True,
        help="Validation scores of every trial: encoding,transfer,classification.",
    ),
    option(
        "--optimise",
        default="encoding",
        show_default=True,
        help="Scores to search by; several mean their Pareto set, without pruning.",
    ),
    option("--labelled", default="", help="Labelled image set for --scores classification."),
    option("--leave-one-out", is_flag=True, help="Pooled methods: also one network without each subject."),
    option("--trials", type=int, help="Trials of each tuned target and method. Default: that of --space."),
    option(
        "--neighbours/--no-neighbours",
        default=True,
        show_default=True,
        help="Every other trial takes over the best of the same method's studies of the same ROI or group.",
    ),
    option("--epochs", type=int, help="Epochs of a trial that is not pruned. Default: that of --space."),
    option("--grace-epochs", type=int, help="Epochs before a trial can be pruned. Default: a third of --epochs."),
    option("--batch-size", type=int, help="Stimuli in a step. Default: that of --space."),
    option(
        "--cutoffs",
        help="Layer cutoffs to explore: features.9,features.12. Default: all that weights and --space allow.",
    ),
    option("--weights", help="imagenet (default), random, or a .pth, .safetensors or .npz FILE."),
    option("--tracking-uri", callback=no_password, help="MLflow server or database. Default: sqlite in --storage."),
    option(
        "--ledger",
        callback=no_password,
        help="Journal file or postgresql://… for the trials. Default: a journal in --storage.",
    ),
    option(
        "--keep-weights",
        type=int,
        default=1,
        show_default=True,
        help="Best trials of each study whose weights are kept.",
    ),
    profile_option,
    option("--seed", type=int, default=0, show_default=True),
    option("--min-voxels", type=int, default=20, show_default=True, help="Smaller ROIs are skipped and reported."),
    address_option,
    storage_option,
    option("--dry-run", is_flag=True, help="Say what the sweep would compute and cost, and start nothing."),
    option("--machine", help="--dry-run: machine of cluster/prices.toml whose hours are priced."),
    option(
        "--throughput",
        type=click.FloatRange(min=0, min_open=True),
        help="--dry-run: pictures per second that a slot tunes. Default: measured here.",
    ),
    json_option,
]
