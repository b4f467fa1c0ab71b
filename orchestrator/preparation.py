"""What has to be there before the first trial: pretrained weights and decoded stimuli."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.plan import SweepPlan
from trainables.data.files import default_cache_dir
from trainables.data.open import open_dataset
from trainables.data.responses import load_subjects, require_split
from trainables.data.stimuli import decode_stimuli, require_one_picture_per_id
from trainables.errors import WeightsError
from trainables.models.weights import PretrainedWeights, load_weights

DEFAULT_WEIGHTS = "imagenet"


def prepare_weights(asked: str | None, backbone: str, is_demo: bool) -> tuple[PretrainedWeights, str]:
    """The pretrained weights, and what people have to know of them; only the demo may do without, and says so.

    Raises:
        WeightsError: the weights cannot be had and were asked for, or the data set is a real one.
    """
    try:
        weights = load_weights(asked or DEFAULT_WEIGHTS, backbone)
    except WeightsError as error:
        if asked is not None or not is_demo:
            raise
        return load_weights("random", backbone), (
            f"[bold yellow]NOTE: pretrained weights cannot be had here ({error})\n"
            "The demo goes on with RANDOM weights; its scores show that the machinery works, nothing more. Every run "
            "is tagged weights=random, weights.fallback=true.[/]"
        )
    return weights, f"Weights {weights.source}: {weights.note}" if weights.note else ""


def prepare_data(plan: SweepPlan, console: Console, quiet: bool) -> None:
    """Decode the stimuli of every subject of the plan into this machine's cache and look at every target's responses.

    The slots would do it themselves, one waiting for the other and without a word to the person who waits; and a fault
    in the last target's data is better known before the first trial.

    Raises:
        DataError: an image or a target's responses are damaged.
        StorageError: the cache cannot be written.
    """
    dataset = open_dataset(plan.data)
    require_split(dataset, plan.split_seed, plan.split_digest, plan.protocol)
    names = sorted({name for target in plan.targets for name in target.subjects})
    columns = (
        TextColumn("reading {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bars:
        for name in names:
            subject = dataset.subject(name)
            task = bars.add_task(name, total=len(subject.image_paths))
            stimuli = decode_stimuli(
                subject.image_paths,
                default_cache_dir(),
                progress=lambda done, total, task=task: bars.update(task, completed=done, total=total),  # type: ignore[misc]
            )
            require_one_picture_per_id(subject, stimuli)
        task = bars.add_task("responses", total=len(plan.targets))
        for target in plan.targets:
            load_subjects(dataset, target, plan.split_seed, protocol=plan.protocol)
            bars.advance(task)
