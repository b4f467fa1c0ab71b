"""Prints what `trainables.data.check` and `trainables.data.demo` say."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.hints import command, count
from trainables.data.check import CheckReport, check_dataset
from trainables.data.demo import make_demo


def check_and_print(directory: str, as_json: bool, console: Console) -> int:
    """Check a data set; 1 if it has a fault that stops a sweep, else 0."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal, transient=True) as bars:
        bar = bars.add_task("reading images", total=None)
        report = check_dataset(directory, progress=lambda done, total: bars.update(bar, completed=done, total=total))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        _print_report(report, console)
    return 1 if any(fault.severity == "error" for fault in report.faults) else 0


def _print_report(report: CheckReport, console: Console) -> None:
    for name, subject in report.subjects.items():
        table = Table(box=None, pad_edge=False, title=f"{name}: {subject['stimuli']} stimuli", title_justify="left")
        table.add_column("ROI", no_wrap=True)
        table.add_column("lh voxels", justify="right")
        table.add_column("rh voxels", justify="right")
        rois = dict.fromkeys(roi for hemisphere in ("lh", "rh") for roi in subject["rois"].get(hemisphere, {}))
        for roi in rois:
            table.add_row(roi, *(str(subject["rois"].get(h, {}).get(roi, "–")) for h in ("lh", "rh")))
        console.print(table)
    for fault in report.faults:
        colour = "red" if fault.severity == "error" else "yellow"
        where = f"{fault.subject}: " if fault.subject else ""
        console.print(
            f"[{colour}]{fault.severity}[/] {where}{fault.file}: {fault.problem}; {fault.remedy}", soft_wrap=True
        )
    errors = sum(fault.severity == "error" for fault in report.faults)
    warnings = len(report.faults) - errors
    verdict = "ready for a sweep" if not errors else "mend the errors before a sweep"
    found = [count(len(report.subjects), "subject"), count(errors, "error"), count(warnings, "warning")]
    console.print(f"{', '.join(found)}: {verdict}.")


def make_demo_and_print(directory: Path, subjects: int, seed: int, as_json: bool, console: Console) -> None:
    """Make the demo set and say what to do with it.

    Raises:
        CortexSweepError: the folder holds something else, or cannot be written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task("making the demo set", total=None)
        root = make_demo(
            directory,
            subjects=subjects,
            seed=seed,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    if as_json:
        print(json.dumps({"directory": str(root), "subjects": subjects, "seed": seed}))
        return
    console.print(
        f"Demo set in {root}: {count(subjects, 'subject')} with simulated responses to photographs; their noise "
        f"ceilings and best achievable scores are in truth.npz.\n"
        f"Next:  {command('run', '--data', str(directory), '--space', 'smoke', '--name', 'demo')}",
        soft_wrap=True,
    )
