"""Prints what the ledger says of a sweep: tables for people, JSON for scripts."""

from __future__ import annotations

import json

from rich.console import Console

from orchestrator.driver import is_driven
from orchestrator.leaderboard import Row, improvement_lines, leaderboard, leaderboard_table, unfinished_line
from orchestrator.leaderboard import as_json as plain
from orchestrator.opening import open_sweep
from orchestrator.status import status_json, status_lines


def print_leaderboard(name: str, storage: str, as_json: bool) -> list[Row]:
    """The best model of every target and method, printed and returned.

    Raises:
        StorageError: there is no such sweep.
    """
    sweep, ledger = open_sweep(name, storage)
    rows, plan = leaderboard(ledger, sweep), ledger.plan
    if as_json:
        head = {"sweep": name, "protocol": plan.protocol, "split": plan.split_digest}
        print(json.dumps({**head, "rows": plain(rows)}))
        return rows
    console = Console()
    console.print(
        f"\n[bold]{name}[/]: {plan.dataset}, weights {plan.weights_source}, "
        f"protocol {plan.protocol} (split {plan.split_digest})",
        soft_wrap=True,
        highlight=False,
    )
    console.print(leaderboard_table(rows, console.width))
    for line in improvement_lines(rows):
        console.print(line, soft_wrap=not console.is_terminal, highlight=False)
    if unfinished := unfinished_line(rows):
        console.print(unfinished, soft_wrap=True)
    return rows


def print_status(name: str, storage: str, as_json: bool) -> None:
    """Progress of a sweep, target by target.

    Raises:
        StorageError: there is no such sweep.
    """
    places, ledger = open_sweep(name, storage)
    if as_json:
        print(json.dumps(status_json(ledger)))
        return
    console = Console()
    for part in status_lines(ledger, storage, is_driven(places.driver_lock)):
        console.print(part, soft_wrap=isinstance(part, str))
