"""Section about what the search found: which settings mattered, and which values were good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.records import TrialRecord
from orchestrator.report.drawing import (
    DIVERGING,
    MARKERS,
    PALETTE,
    dots_height,
    draw,
    name_methods,
    other_series,
    paint_dots,
    plain_numbers,
)
from orchestrator.report.importance import LEAST_TRIALS, Importance, importances, studies_by_group
from orchestrator.report.pareto import pareto_parts
from orchestrator.report.parts import Cell, Column, Picture, Section, Table
from orchestrator.report.results import Results

SETTINGS = ("temperature", "learning_rate")


@dataclass(frozen=True)
class Tried:
    """A trial and how far it came above the untuned network of its target."""

    record: TrialRecord
    gain: float


def search_section(results: Results) -> Section:
    """Importance of each setting, then slices through what was tried."""
    title = "What the search found"
    studies = studies_by_group(results)
    if not studies:
        return Section("search", title, missing=("This sweep tunes nothing: untuned networks have no settings.",))
    tried = {place: _tried(results, keys) for place, keys in studies.items()}
    tried = {place: trials for place, trials in tried.items() if trials}
    if not tried:
        return Section("search", title, missing=(f"No tuned trial has a score yet: {results.resume} goes on.",))
    shares = importances(results)
    pictures, tables = pareto_parts(results)
    pictures += [_importance_picture(shares)] if shares else []
    pictures += [_slices(results, method, group, trials) for (method, group), trials in tried.items()]
    tables += [_importance_table(results, shares)] if shares else []
    tables.append(_settings_table(results, tried))
    few = sorted({f"{method}, {group}" for method, group in tried} - {f"{s.method}, {s.roi_group}" for s in shares})
    missing = (f"Fewer than {LEAST_TRIALS} complete trials, so no importance: {'; '.join(few)}.",) if few else ()
    lead = (
        "Importance: how much of the differences between complete trials each setting explains (functional ANOVA; "
        "values less their study's mean). Slices: validation r less that of the target's untuned network, each at "
        "its best layer; crosses are trials that were pruned, at the last score that they reached."
    )
    return Section("search", title, lead, tuple(pictures), tuple(tables), missing)


def _tried(results: Results, keys: Sequence[object]) -> list[Tried]:
    untuned = {row.target: row.val_r for row in results.leaderboard if row.method == "untuned"}
    found = []
    for key in results.plan.studies:
        if key not in keys:
            continue
        baseline = untuned.get(key.target.name)
        records = [r for r in results.ledger.study_records(key) if r.value is not None and r.state != "running"]
        if baseline is None:  # no untuned network in this sweep: around the study's own mean
            baseline = sum(r.value or 0.0 for r in records) / max(1, len(records))
        found += [Tried(r, r.value - baseline) for r in records if r.value is not None and math.isfinite(r.value)]
    return found


def _importance_picture(shares: Sequence[Importance]) -> Picture:
    labels = [f"{one.roi_group} {one.method}" for one in shares]
    names = list(dict.fromkeys(name for one in shares for name in one.shares))
    series = [
        other_series(
            place,
            name.replace("_", " "),
            {f"{one.roi_group} {one.method}": [one.shares[name]] for one in shares if name in one.shares},
        )
        for place, name in enumerate(names)
    ]

    def paint(figure: Figure) -> None:
        paint_dots(figure, labels, series, "importance (shares sum to 1)").set_xlim(0, 1)

    return draw("search_importance", "Importance of each setting.", dots_height(len(labels), len(series)), paint)


def _slices(results: Results, method: str, group: str, tried: Sequence[Tried]) -> Picture:
    explored = [s for s in SETTINGS if len({trial.record.config[s] for trial in tried}) > 1]
    cutoffs = [c for c in results.plan.cutoffs if any(trial.record.config["layer_cutoff"] == c for trial in tried)]
    plane = len(explored) == 2
    n_panels = len(explored) + 1 + plane

    def paint(figure: Figure) -> None:
        panels: list[Axes] = list(figure.subplots(n_panels, squeeze=False)[:, 0])
        for axes, setting in zip(panels, explored, strict=False):
            _paint_setting(axes, setting, cutoffs, tried)
        _paint_cutoffs(panels[len(explored)], cutoffs, tried)
        if plane:
            _paint_plane(figure, panels[-1], tried)
        panels[0].set_title(f"{method}, {group}")
        marks = [(c, PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]) for n, c in enumerate(cutoffs)]
        name_methods(figure, marks)

    caption = f"Trials of {method} for {group} ROIs, coloured by layer cutoff"
    caption += "; the last panel by gain over the temperature and learning rate plane." if plane else "."
    return draw(f"search_{method}_{group}", caption, 0.7 + 2.3 * n_panels, paint)


def _paint_setting(axes: Axes, setting: str, cutoffs: Sequence[str], tried: Sequence[Tried]) -> None:
    for place, cutoff in enumerate(cutoffs):
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        members = [trial for trial in tried if trial.record.config["layer_cutoff"] == cutoff]
        ended = [trial for trial in members if trial.record.state == "complete"]
        pruned = [trial for trial in members if trial.record.state != "complete"]
        for trials, shape, alpha in ((ended, marker, 0.85), (pruned, "x", 0.5)):
            x = [trial.record.config[setting] for trial in trials]
            y = [trial.gain for trial in trials]
            axes.scatter(x, y, s=20, color=colour, marker=shape, alpha=alpha, linewidths=0.9 if shape == "x" else 0)
    axes.set(xscale="log", xlabel=setting.replace("_", " "), ylabel="val r less untuned")
    plain_numbers(axes.xaxis)
    axes.axhline(0, color="#222222", linewidth=0.9)


def _paint_cutoffs(axes: Axes, cutoffs: Sequence[str], tried: Sequence[Tried]) -> None:
    for place, cutoff in enumerate(cutoffs):
        gains = [t.gain for t in tried if t.record.config["layer_cutoff"] == cutoff and t.record.state == "complete"]
        spread = [place + 0.22 * math.sin(7.0 * n) for n in range(len(gains))]
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        axes.scatter(spread, gains, s=14, color=colour, marker=marker, alpha=0.6, linewidths=0)
        if gains:
            axes.plot([place - 0.3, place + 0.3], [median(gains)] * 2, color="#222222", linewidth=1.6)
    axes.set_xticks(range(len(cutoffs)), cutoffs, rotation=30, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.set(ylabel="val r less untuned", xlim=(-0.6, len(cutoffs) - 0.4), xlabel="layer cutoff (bars: medians)")
    axes.axhline(0, color="#222222", linewidth=0.9)


def _paint_plane(figure: Figure, axes: Axes, tried: Sequence[Tried]) -> None:
    complete = sorted((t for t in tried if t.record.state == "complete"), key=lambda trial: trial.gain)
    x, y = ([trial.record.config[setting] for trial in complete] for setting in SETTINGS)
    gains = [trial.gain for trial in complete]
    largest = max((abs(gain) for gain in gains), default=1.0) or 1.0
    norm = mpl.colors.Normalize(-largest, largest)
    shown = axes.scatter(x, y, c=gains, cmap=DIVERGING, norm=norm, s=34, edgecolors="#222222", linewidths=0.4)
    axes.set(xscale="log", yscale="log", xlabel="temperature", ylabel="learning rate")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    figure.colorbar(shown, ax=axes, label="val r less untuned", fraction=0.05, pad=0.02)


def _importance_table(results: Results, shares: Sequence[Importance]) -> Table:
    names = list(dict.fromkeys(name for one in shares for name in one.shares))
    rows = tuple(
        (one.method, one.roi_group, *(one.shares.get(name) for name in names), one.n_trials, one.n_studies)
        for one in shares
    )
    columns = (
        Column("method"),
        Column("ROI group"),
        *(Column(name.replace("_", " "), ".3f") for name in names),
        Column("complete trials"),
        Column("studies"),
    )
    note = "Pruned trials do not count, so values that were given up early are thin."
    return Table("importance", "Importance of settings", results.validation_basis, columns, rows, note)


def _settings_table(results: Results, tried: dict[tuple[str, str], list[Tried]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (method, group), trials in tried.items():
        best: dict[str, Tried] = {}
        for trial in trials:
            study = trial.record.study.name
            if trial.record.state == "complete" and (study not in best or trial.gain > best[study].gain):
                best[study] = trial
        rows += [_setting_row(method, group, cutoff, list(best.values()), trials) for cutoff in results.plan.cutoffs]
    columns = (
        Column("method"),
        Column("ROI group"),
        Column("layer cutoff"),
        Column("trials"),
        Column("pruned"),
        Column("best of its study"),
        Column("median temperature of these", ".3g"),
        Column("median learning rate of these", ".2e"),
        Column("largest gain", "+.4f"),
    )
    return Table("settings", "Settings of the best trials", results.validation_basis, columns, tuple(rows))


def _setting_row(
    method: str, group: str, cutoff: str, best: Sequence[Tried], trials: Sequence[Tried]
) -> tuple[Cell, ...]:
    members = [trial for trial in trials if trial.record.config["layer_cutoff"] == cutoff]
    winners = [trial for trial in best if trial.record.config["layer_cutoff"] == cutoff]
    temperatures = [trial.record.config["temperature"] for trial in winners if method != "regression"]
    rates = [trial.record.config["learning_rate"] for trial in winners]
    gains = [trial.gain for trial in members if trial.record.state == "complete"]
    return (
        method,
        group,
        cutoff,
        len(members),
        sum(trial.record.state == "pruned" for trial in members),
        len(winners),
        median(temperatures) if temperatures else None,
        median(rates) if rates else None,
        max(gains, default=None),
    )
