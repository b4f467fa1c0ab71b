"""Drives a sweep to its end and through what follows: selection and evaluation, each with what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console

from orchestrator.evaluation import EvaluationOptions, evaluate, evaluation_table
from orchestrator.hints import command, joined
from orchestrator.launch import Outcome
from orchestrator.leaderboard import leaderboard, studies_without_score, unfinished_line
from orchestrator.node_watch import INTERRUPTED
from orchestrator.opening import open_sweep
from orchestrator.passwords import without_password
from orchestrator.plan import SweepPlan
from orchestrator.printing import print_leaderboard
from orchestrator.selection import select
from orchestrator.storage import SweepStorage
from orchestrator.tasks import TaskRunner

STUDIES_WITHOUT_SCORE = 3

Launch = Callable[[Console, bool], tuple[SweepPlan, Outcome]]
"""Runs the trials, quietly or not, and says how that ended."""


def run_to_the_end(launch: Launch, name: str, storage: str, address: str | None, as_json: bool) -> int:
    """Run the trials of the sweep called ``name``, show what came out of them and what to do next.

    Returns:
        The exit code: 0, `STUDIES_WITHOUT_SCORE` or `INTERRUPTED`.

    Raises:
        CortexSweepError: what ``launch`` raises; for a fixed recipe also what its evaluation raises.
    """
    console = Console(stderr=as_json)
    again = command("resume", name, "--storage", storage, *joined(address))
    try:
        plan, outcome = launch(console, as_json)
    except KeyboardInterrupt:
        return _say_interrupted(console, name, storage, again)
    if not outcome.tracked:
        console.print(
            f"MLflow at {without_password(plan.tracking_uri)} stayed away; `{again}` writes what it lacks.",
            soft_wrap=True,
        )
    if not outcome.finished:
        return _say_interrupted(console, name, storage, again)
    without_score = studies_without_score(print_leaderboard(name, storage, as_json))
    if without_score:
        console.print(
            f"[red]No trial came to a score in {', '.join(without_score)}[/]; "
            f"`{command('ui', name, '--storage', storage)}` shows why.",
            soft_wrap=True,
        )
        return STUDIES_WITHOUT_SCORE
    if not plan.search_space.searched:
        _evaluate_all(name, storage, address, plan.profile, as_json, console)
    elif not as_json:
        _say_next(console, name, storage, joined(address))
    return 0


def select_and_print(name: str, storage: str, profile: str, address: str | None, as_json: bool) -> None:
    """Register the best trial of every target and method.

    Raises:
        CortexSweepError: there is no such sweep, or no trial to choose.
    """
    console = Console(stderr=as_json)
    places, ledger = open_sweep(name, storage)
    if unfinished := unfinished_line(leaderboard(ledger, places)):
        console.print(f"{unfinished} What is best of these is selected.", soft_wrap=True)
    chosen = select(name, storage, TaskRunner(console, as_json, address, profile))
    if as_json:
        print(json.dumps(chosen))
    else:
        console.print(f"\nNext:  {command('evaluate', name, '--storage', storage, *joined(address))}", soft_wrap=True)


def evaluate_and_print(
    name: str, storage: str, options: EvaluationOptions, profile: str, address: str | None, as_json: bool
) -> None:
    """Score the selected models on test stimuli.

    Raises:
        CortexSweepError: nothing is selected, or data or models are missing.
    """
    console = Console(stderr=as_json)
    result = evaluate(name, storage, TaskRunner(console, as_json, address, profile), options)
    if as_json:
        print(json.dumps(result))
        return
    console.print(evaluation_table(result))
    if others := [each for each in options.evaluations if each != "encoding"]:
        console.print(f"Computed too, and in the report: {', '.join(others)}.", soft_wrap=True)
    console.print(f"\nNext:  {command('report', name, '--storage', storage)}", soft_wrap=True)


def _evaluate_all(name: str, storage: str, address: str | None, profile: str, as_json: bool, console: Console) -> None:
    """A fixed recipe leaves nothing to look at and decide before its models are scored."""
    from orchestrator.report import write_report  # draws, and takes a while to import: no other sweep waits for it

    tasks = TaskRunner(console, as_json, address, profile)
    with tasks.ray():
        select(name, storage, tasks)
        result = evaluate(name, storage, tasks, EvaluationOptions())
    page = write_report(name, storage, console)
    if not as_json:
        console.print(evaluation_table(result))
        console.print(f"\nReport in {page}", soft_wrap=True)


def _say_next(console: Console, name: str, storage: str, where: tuple[str, ...]) -> None:
    steps = {
        "select": "register the best models",
        "evaluate": "score them on test stimuli",
        "ui": "look at everything in MLflow",
    }
    commands = [command(step, name, "--storage", storage, *(() if step == "ui" else where)) for step in steps]
    width = max(map(len, commands)) + 3
    lines = [f"{typed:{width}}{what}" for typed, what in zip(commands, steps.values(), strict=True)]
    console.print("\nNext:  " + "\n       ".join(lines), soft_wrap=True, highlight=False)


def _say_interrupted(console: Console, name: str, storage: str, again: str) -> int:
    made = SweepStorage(storage, name).plan_file.exists()
    console.print(
        f"\nInterrupted. Nothing finished is lost. Go on with:  {again}"
        if made
        else "\nInterrupted; nothing was made.",
        soft_wrap=True,
    )
    return INTERRUPTED
