"""What a sweep would compute and cost: ``run --dry-run``. Nothing is made and nothing is started."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import cluster
from cluster.profiles import Profile, choose_profile
from orchestrator.gpu_slots import largest_trial_bytes, slots_that_fit
from orchestrator.hints import count
from orchestrator.launch import completed, planned
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.planning import SweepOptions
from trainables.data.dataset import Dataset
from trainables.data.responses import split_of
from trainables.encoding.features import layers_together
from trainables.errors import ConfigError
from trainables.models.backbone import backbone_spec
from trainables.tuning.speed import Speed, measure_speed

PRICES = Path(cluster.__file__).with_name("prices.toml")


@dataclass(frozen=True)
class Work:
    """What is to be computed."""

    targets: int
    studies: int
    trials: int
    tuned: tuple[int, int]
    """Pictures through tuning: if pruning keeps what it is meant to keep at each rung, and if it prunes nothing."""
    read: tuple[int, int]
    """Pictures through the readout layers for validation scores, likewise; those that pass several times, since not all
    features fit into memory, count as often, as if each pass went to the deepest layer."""


@dataclass(frozen=True)
class Machine:
    """What one machine holds and costs."""

    name: str
    cpus: int
    gpus: int
    usd_per_hour: float
    prices: str
    """Where the price stands, and when somebody looked it up."""
    gpu_memory_gb: float = 0.0
    """Of each GPU, in 10^9 bytes; 0 if the table does not say."""
    head: str | None = None
    """Machine that a cluster of such machines has as its head, and pays for as long as a sweep runs."""


def count_work(plan: SweepPlan, dataset: Dataset) -> Work:
    """Trials and pictures of a plan; those of pooled networks are counted for every subject."""
    sizes: dict[str, tuple[int, int]] = {}
    for name in {name for target in plan.targets for name in target.subjects}:
        split = split_of(dataset.subject(name), plan.protocol, plan.split_seed)
        sizes[name] = len(split.train), len(split.val)
    tuned, read = [0.0, 0.0], [0.0, 0.0]
    for key, trials in plan.studies.items():
        n_train = sum(sizes[name][0] for name in key.target.subjects)
        n_scored = sum(sum(sizes[name]) * _passes(plan, sum(sizes[name])) for name in key.target.subjects)
        for column, pruned in enumerate((True, False)):
            epochs, scores = _epochs_and_scores(plan, key, pruned)
            tuned[column] += trials * epochs * n_train
            read[column] += trials * scores * n_scored
    return Work(
        targets=len(plan.targets),
        studies=len(plan.studies),
        trials=sum(plan.studies.values()),
        tuned=(round(tuned[0]), round(tuned[1])),
        read=(round(read[0]), round(read[1])),
    )


def _passes(plan: SweepPlan, n_stimuli: int) -> int:
    """Passes through the network that a score of its deepest cutoff takes, see `features_by_layer`."""
    spec = backbone_spec(plan.backbone)
    layers = spec.readouts_up_to(plan.cutoffs[-1])
    return len([*layers_together(layers, {layer: 4 * n_stimuli * spec.readout_layers[layer] for layer in layers})])


def _epochs_and_scores(plan: SweepPlan, key: StudyKey, pruned: bool) -> tuple[float, float]:
    """Mean epochs and scores of a trial; at each rung one in `reduction_factor` trials goes on."""
    if key.method == "untuned":
        return 0.0, 1.0
    last = plan.search_space.epochs_of(key.method, plan.epochs)
    rungs = [epoch for epoch in plan.score_epochs if epoch < last] if plan.search_space.searched else []
    share, before, epochs, scores = 1.0, 0, 0.0, 0.0
    for epoch in (*rungs, last):
        epochs += share * (epoch - before)
        scores += share
        before = epoch
        share /= plan.reduction_factor if pruned and len(plan.optimise) == 1 else 1
    return epochs, scores


def machine_named(name: str) -> Machine:
    """A machine of the price table.

    Raises:
        ConfigError: the table has no such machine.
    """
    table = tomllib.loads(PRICES.read_text())
    looked_up = table.pop("looked_up", "never")
    if name not in table:
        raise ConfigError(f"--machine is {name!r}; cluster/prices.toml has {', '.join(table)}, and room for more")
    return Machine(name, **table[name], prices=f"cluster/prices.toml (prices looked up: {looked_up})")


def estimate_and_print(options: SweepOptions, machine: str | None, throughput: float | None, as_json: bool) -> None:
    """Print targets, trials, hours and cost of what ``options`` would run.

    Raises:
        CortexSweepError: what `orchestrator.launch.planned` raises, a machine without a price, or one whose speed
            nobody has measured.
    """
    console = Console(stderr=as_json)
    storage, plan, dataset, weights = planned(completed(options), console)
    if storage.plan_file.exists():
        console.print(f"{plan.name} exists: what it has is counted too, and would not run again.", soft_wrap=True)
    work = count_work(plan, dataset)
    where = machine_named(machine) if machine else None
    if where and throughput is None:
        raise ConfigError(
            f"--machine {where.name} needs --throughput, the pictures per second that a slot tunes there: run a trial, "
            "MLflow shows it as train/images_per_second"
        )
    if throughput is not None and not math.isfinite(throughput):
        raise ConfigError(f"--throughput is {throughput}; expected pictures per second")
    if throughput is None:
        console.print("Measuring the speed of this machine …")
        speed = measure_speed(weights, plan.cutoffs[-1], plan.batch_size)
    else:
        speed = Speed(throughput, throughput * 3)  # the backward pass costs twice what the forward pass does
    seconds = [t / speed.tuning + r / speed.reading for t, r in zip(work.tuned, work.read, strict=True)]
    hours = [value / 3600 for value in seconds]
    content = asdict(work) | {"pictures_per_second": asdict(speed), "slot_hours": hours}
    if where:
        content |= _cost(where, _profile_there(where, plan, dataset), hours)
    if as_json:
        print(json.dumps(content))
        return
    _print(console, plan, work, speed, hours, content if where else {})


def _profile_there(where: Machine, plan: SweepPlan, dataset: Dataset) -> Profile:
    def slots() -> int:
        if not where.gpu_memory_gb:
            raise ConfigError(
                f"--profile is {plan.profile!r}, by a GPU's memory; cluster/prices.toml has no gpu_memory_gb "
                f"for {where.name!r}, add it"
            )
        return slots_that_fit(int(where.gpu_memory_gb * 1e9), largest_trial_bytes(plan, dataset))

    return choose_profile(plan.profile, {"GPU": where.gpus}, slots)


def _cost(where: Machine, chosen: Profile, hours: list[float]) -> dict[str, Any]:
    """Of the machines that run trials, and of the head beside as many of them as the profile asks for."""
    # The coordinators, which ask for a hundredth of a core each, run on the cluster's head.
    slots = replace(chosen, max_slots=None).slots({"CPU": where.cpus + 1, "GPU": where.gpus})
    machine_hours = [value / slots for value in hours]
    machines = math.ceil(chosen.max_slots / slots) if chosen.max_slots else 1
    wall_hours = [value / machines for value in machine_hours]
    head = machine_named(where.head) if where.head and chosen.max_slots else None
    head_usd = [value * head.usd_per_hour if head else 0.0 for value in wall_hours]
    return {
        "machine": where.name,
        "machines": machines,
        "head": head.name if head else None,
        "slots_per_machine": slots,
        "machine_hours": machine_hours,
        "wall_hours": wall_hours,
        "gpu_hours": [value * where.gpus for value in machine_hours],
        "usd": [value * where.usd_per_hour + top for value, top in zip(machine_hours, head_usd, strict=True)],
        "prices": where.prices,
    }


def _print(
    console: Console,
    plan: SweepPlan,
    work: Work,
    speed: Speed,
    hours: list[float],
    cost: Mapping[str, Any],
) -> None:
    def both(values: Sequence[float], form: str = "{:,.0f}") -> str:
        low, high = (form.format(value) for value in values)
        return low if low == high else f"{low} to {high}"

    def time(values: Sequence[float]) -> str:
        return (
            f"{both(values, '{:,.1f}')} hours"
            if min(values) >= 1
            else f"{both([v * 60 for v in values], '{:,.1f}')} minutes"
        )

    trials, studies = count(work.trials, "trial"), count(work.studies, "study", "studies")
    lines = [
        f"[bold]{plan.name}[/] would run {trials} in {studies} of {count(work.targets, 'target')}:",
        f"  {both(work.tuned)} pictures through tuning, {both(work.read)} through validation scores",
        f"  at {speed.tuning:.0f} and {speed.reading:.0f} pictures a second",
        f"  {time(hours)} of one slot",
    ]
    if cost:
        number, head = cost["machines"], f" and its head {cost['head']}" if cost["head"] else ""
        lines += [
            f"  {both(cost['gpu_hours'], '{:,.2f}')} GPU-hours, {cost['slots_per_machine']} slots per machine",
            f"  {time(cost['wall_hours'])} on {number} machine{'s' if number > 1 else ''} {cost['machine']}{head}",
            f"  {both(cost['usd'], '{:,.2f}')} US dollars on demand, by {cost['prices']}",
        ]
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(
        "The lower figure is for pruning that lets one trial in "
        f"{plan.reduction_factor} go on at each rung, the higher one for none. On top come fits of encoding models, "
        "start and idle time of machines, disks and traffic. Nothing was started.",
        soft_wrap=True,
    )
