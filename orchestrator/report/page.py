"""The page itself: gathers the sections, renders them into one HTML file and hands the figures to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console
from upath import UPath

from orchestrator.report.encoding import leaderboard_section, methods_section
from orchestrator.report.figures_landscape import interactive_script
from orchestrator.report.landscape import landscape_section
from orchestrator.report.layers import layers_section
from orchestrator.report.parts import Section
from orchestrator.report.pooled import pooled_section
from orchestrator.report.published import published_section
from orchestrator.report.recognition import classification_section, information_section
from orchestrator.report.results import Results, read_results
from orchestrator.report.salience import salience_section
from orchestrator.report.search import search_section
from orchestrator.report.transfer import transfer_section
from orchestrator.report.voxels import voxels_section
from orchestrator.storage import write_whole
from orchestrator.tracking.figures import log_figures
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.views import publish_views
from trainables.errors import StorageError

SECTIONS: tuple[Callable[[Results], Section], ...] = (
    leaderboard_section,
    methods_section,
    layers_section,
    voxels_section,
    transfer_section,
    pooled_section,
    classification_section,
    information_section,
    landscape_section,
    salience_section,
    search_section,
    published_section,
)


def write_report(name: str, storage_uri: str, console: Console) -> UPath:
    """Write ``STORAGE/NAME/report.html`` from what there is, and its figures to MLflow.

    The page is written first: a tracking server that is away is told and costs the page nothing.

    Raises:
        StorageError: there is no such sweep, a file of it is damaged, or the page cannot be written.
    """
    results = read_results(name, storage_uri)
    sections = make_sections(results)
    path = results.storage.root / "report.html"
    page = render(results, sections, datetime.now(UTC))
    write_whole(path, page.encode())
    figures = {picture.name: picture.png for section in sections for picture in section.all_pictures}
    try:
        projection = Projection(results.ledger, results.storage.artifacts_uri)
        log_figures(projection, figures, page)
        publish_views(projection.client, projection.experiment_id, results.ledger.plan)
    except StorageError as error:
        console.print(f"[yellow]The figures are not in MLflow:[/] {error}", soft_wrap=True)
    return path


def make_sections(results: Results) -> list[Section]:
    """Every section, with data or with what makes it.

    Raises:
        StorageError: a file lacks what its section needs.
    """
    sections = []
    for make in SECTIONS:
        try:
            sections.append(make(results))
        except KeyError as error:
            folder = results.storage.evaluation_dir
            raise StorageError(
                f"{make.__name__}: the files in {folder} lack the field {error}; evaluate again with this release"
            ) from error
    return sections


def render(results: Results, sections: Sequence[Section], made: datetime) -> str:
    """The HTML; everything that it needs is in it."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["commands"] = with_commands
    interactive = any(section.interactive for section in sections)
    return environment.get_template("report.html.j2").render(
        plan=results.plan,
        sections=sections,
        facts=facts(results),
        warnings=warnings(results),
        made=made.strftime("%Y-%m-%d %H:%M UTC"),
        script=Markup(interactive_script()) if interactive else "",  # the installed library's own source
        trusted=Markup,
    )


def with_commands(sentence: str) -> Markup:
    """``sentence`` as HTML; what stands between backticks is a command."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def facts(results: Results) -> list[tuple[str, str]]:
    """What the page is about, in words and numbers."""
    plan = results.plan
    ended = sum(row.trials for row in results.leaderboard)
    subjects = sorted({subject for target in plan.targets for subject in target.subjects})
    rois = list(dict.fromkeys(target.roi for target in plan.targets))
    named = (("subject", subjects), ("ROI", rois), ("target", plan.targets))
    counts = [f"{len(all_of)} {word}{'s' if len(all_of) > 1 else ''}" for word, all_of in named]
    return [
        ("data set", f"{plan.dataset}: {', '.join(counts)}"),
        ("methods", ", ".join(plan.methods)),
        ("trials", f"{ended} of {sum(plan.studies.values())} ended, {plan.epochs} epochs each unless pruned"),
        ("network", f"{plan.backbone}, weights {plan.weights_source} ({plan.weights_digest[:12]})"),
        ("protocol", f"{plan.protocol}, split {plan.split_digest}"),
        ("made by", f"version {plan.version}, commit {plan.git_commit}"),
    ]


def warnings(results: Results) -> list[str]:
    """What a reader must know before any number."""
    plan = results.plan
    found = []
    if plan.weights_fallback:
        found.append("Random weights stand in for pretrained ones that could not be had.")
    if plan.dataset == "demo":
        found.append("The demo set's responses are simulated: its numbers say nothing about brains.")
    left = results.ledger.trials_left()
    if left:
        found.append(f"{left} trials have not ended: what follows is of a sweep that is not finished.")
    for skipped in plan.skipped[:20]:
        found.append(f"Skipped {skipped.name}: {skipped.reason}.")
    if len(plan.skipped) > 20:
        found.append(f"Skipped {len(plan.skipped) - 20} more targets, see `python sweep.py status {plan.name}`.")
    return found
