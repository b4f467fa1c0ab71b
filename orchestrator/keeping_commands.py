"""The commands about what a sweep leaves: compare, export, rename, archive, delete."""

from __future__ import annotations

import json
from pathlib import Path

import click

from orchestrator.options import json_option, option, require_sweeps, storage_option, sweep_argument

# What the commands need is imported when they run, see sweep.py.


@click.command()
@sweep_argument("a")
@sweep_argument("b")
@storage_option
@json_option
def compare(a: str, b: str, storage: str, as_json: bool) -> None:
    """Compare two sweeps. Method by method, paired over the targets that both have.

    \b
    sweep.py compare monday tuesday         test scores where both are evaluated, else validation scores
    """  # noqa: D301 - click wants the character itself
    from orchestrator.versus import compare_and_print

    compare_and_print(a, b, storage, as_json)


@click.command()
@sweep_argument("old")
@click.argument("new")
@storage_option
@json_option
def rename(old: str, new: str, storage: str, as_json: bool) -> None:
    """Call a sweep otherwise, here and in MLflow.

    \b
    sweep.py rename demo pilot
    """  # noqa: D301 - click wants the character itself
    from orchestrator.housekeeping import rename as call_otherwise

    call_otherwise(old, new, storage)
    click.echo(json.dumps({"old": old, "new": new}) if as_json else f"{old} is called {new} now.")


@click.command()
@sweep_argument("name")
@click.option("--undo", is_flag=True, help="Bring an archived sweep back.")
@storage_option
@json_option
def archive(name: str, undo: bool, storage: str, as_json: bool) -> None:
    """Put a sweep away. It is hidden in lists and in MLflow, and loses the weights that nobody selected.

    Scores, selected models and every trial's parameters stay.

    \b
    sweep.py archive pilot
    sweep.py archive pilot --undo
    """  # noqa: D301 - click wants the character itself
    from orchestrator.housekeeping import archive as put_away
    from orchestrator.housekeeping import size, unarchive

    if undo:
        unarchive(name, storage)
        click.echo(json.dumps({"name": name, "archived": False}) if as_json else f"{name} is back.")
        return
    freed = put_away(name, storage)
    told = {"name": name, "archived": True, "freed_bytes": freed.n_bytes}
    kept = "" if freed.selected else ": nothing is selected, so all weights stay"
    click.echo(json.dumps(told) if as_json else f"{name} is archived; {size(freed.n_bytes)} freed{kept}.")


@click.command()
@sweep_argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_option
@json_option
def delete(name: str, yes: bool, storage: str, as_json: bool) -> None:
    """Delete a sweep for good. Trials, scores, weights, MLflow runs and registered models go.

    \b
    sweep.py delete pilot            asks first
    sweep.py delete pilot --yes
    """  # noqa: D301 - click wants the character itself
    from orchestrator.hints import count
    from orchestrator.housekeeping import delete as remove
    from orchestrator.housekeeping import size
    from orchestrator.opening import open_sweep

    _, ledger = open_sweep(name, storage)
    if not yes:
        trials = count(sum(len(ledger.study_records(key)) for key in ledger.plan.studies), "trial")
        click.confirm(f"Delete sweep {name} with {trials} and its registered models?", abort=True, err=as_json)
    freed = remove(name, storage)
    if as_json:
        told = {"name": name, "freed_bytes": freed.n_bytes, "models": freed.models}
        click.echo(json.dumps({**told, "left": freed.left, "remover": freed.remover}))
        return
    models = f", {count(len(freed.models), 'registered model version')}" if freed.models else ""
    click.echo(
        f"{name} is deleted; {size(freed.n_bytes)} freed{models}. `{freed.remover}` removes {freed.left} from MLflow."
    )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands.

    \b
    chmod +x sweep.py; eval "$(./sweep.py completion bash)"       then: ./sweep.py le<Tab>
    """  # noqa: D301 - click wants the character itself
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "click knows all three"
    root = click.get_current_context().find_root()
    click.echo(found(root.command, {}, "sweep.py", "_SWEEP_PY_COMPLETE").source())


@click.command()
@click.argument("target")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@option("--name", required=True, help="Name of the sweep.")
@click.option("--method", help="Whose winner. Default: the champion of the target.")
@storage_option
@json_option
def export(target: str, directory: Path, name: str, method: str | None, storage: str, as_json: bool) -> None:
    """Write a model as files that work without this program. TARGET is like subj01/lh/V1v, DIR a new folder.

    \b
    sweep.py export subj01/lh/V1v v1-model --name demo
    python v1-model/predict.py picture.png
    """  # noqa: D301 - click wants the character itself
    require_sweeps(storage, name)
    from orchestrator.export import export_and_print

    export_and_print(target, directory, name, method, storage, as_json)


@click.command(name="list")
@click.option("--archived", is_flag=True, help="Those that were put away.")
@storage_option
@json_option
def list_sweeps(archived: bool, storage: str, as_json: bool) -> None:
    """The sweeps in a storage.

    \b
    sweep.py list
    sweep.py list --storage s3://bucket/sweeps --archived
    """  # noqa: D301 - click wants the character itself
    from orchestrator.storage import sweep_names

    names = sweep_names(storage, archived)
    if as_json:
        click.echo(json.dumps(names))
    else:
        click.echo("\n".join(names) or f"no sweep in {storage} yet; `sweep.py run --data DIR --name NAME` makes one")


KEEPING = (list_sweeps, compare, export, rename, archive, delete, completion)
