"""A sweep that exists takes on more: trials, targets, methods. What it has computed stays, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions, made_otherwise, refuse_changes
from trainables.errors import ConfigError

Item = TypeVar("Item")


def filled(options: SweepOptions, existing: SweepPlan) -> SweepOptions:
    """``options`` with what ``existing`` has for the parts that nobody typed.

    Raises:
        ConfigError: another space, whose methods the parts that are filled in would hide.
    """
    if options.space not in (None, existing.space):
        raise made_otherwise(existing.name, "space", existing.space, options.space)
    single = [target for target in existing.targets if not target.is_pooled]
    have = {
        "subjects": [target.subjects[0] for target in single],
        "hemispheres": [target.hemisphere for target in single],
        "rois": [target.roi for target in single],
        "methods": existing.methods,
        "cutoffs": existing.cutoffs,
    }
    missing: dict[str, Any] = {
        name: ",".join(dict.fromkeys(values)) for name, values in have.items() if not getattr(options, name)
    }
    if options.space is None:  # its file may have changed since, or be another one's of the same name
        missing |= {"space": existing.space, "space_text": existing.space_text}
    for name in ("epochs", "grace_epochs", "batch_size"):
        if getattr(options, name) is None:
            missing[name] = getattr(existing, name)
    return replace(options, **missing)


def grown(existing: SweepPlan, plan: SweepPlan, options: SweepOptions, whole_grid: bool = True) -> SweepPlan:
    """``existing`` with what ``plan``, made from ``options``, has more; ``existing`` itself if that is nothing.

    Targets and methods are added to those that are there, so only new ones have to be named (`filled` has put in the
    rest). A number of trials that was not asked for stays. Without ``whole_grid``, for which subjects and ROIs both
    have to be named, an old subject gets no old ROI that it has not.

    Raises:
        ConfigError: something else differs, or what is asked for is less than there is.
    """
    plan = plan if whole_grid else _as_existing(existing, plan)
    targets, methods = _joined(existing.targets, plan.targets), _joined(existing.methods, plan.methods)
    wider = len(targets) > len(existing.targets) or len(methods) > len(existing.methods)
    trials = existing.trials if options.trials is None else plan.trials
    keep_weights = max(existing.keep_weights, plan.keep_weights)
    asked = replace(plan, keep_weights=existing.keep_weights, trials=existing.trials)
    if wider:
        asked = replace(
            asked,
            targets=existing.targets,
            skipped=existing.skipped,
            roi_groups=existing.roi_groups,
            methods=existing.methods,
        )
    refuse_changes(existing, asked, options)
    if trials < existing.trials:
        raise ConfigError(
            f"--trials is {trials}, but sweep {existing.name!r} was made with {existing.trials} for each target and "
            "method; a sweep only grows, so give more, or another --name"
        )
    if targets != existing.targets:
        _require_same_for_old_trials(existing)
    return replace(
        existing,
        targets=targets,
        methods=methods,
        skipped=_joined(existing.skipped, plan.skipped) if wider else existing.skipped,
        roi_groups={**existing.roi_groups, **plan.roi_groups} if wider else existing.roi_groups,
        trials=trials,
        keep_weights=keep_weights,
    )


def _as_existing(existing: SweepPlan, plan: SweepPlan) -> SweepPlan:
    """``plan`` without targets that only arise where what ``existing`` has is combined anew.

    A sweep that grew by a subject with one ROI holds no full grid of subjects and ROIs.
    """
    subjects = {name for target in existing.targets for name in target.subjects}
    rois = {(target.hemisphere, target.roi) for target in existing.targets}
    new = {target for target in plan.targets if target not in existing.targets}
    combined = {t for t in new if set(t.subjects) <= subjects and (t.hemisphere, t.roi) in rois}
    if not combined:
        return plan
    return replace(plan, targets=tuple(target for target in plan.targets if target not in combined))


def _joined(first: Sequence[Item], second: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _require_same_for_old_trials(existing: SweepPlan) -> None:
    """Refuse new targets where a trial's outcome depends on which others there are.

    Raises:
        ConfigError: it does.
    """
    reason = ""
    if any(target.is_pooled for target in existing.targets):
        reason = "its pooled networks are of the subjects that it has"
    elif "transfer" in existing.scores:
        reason = "its --scores transfer are means over the subjects that it has"
    if reason:
        raise ConfigError(f"sweep {existing.name!r} takes no more targets, since {reason}; give another --name")


def what_is_new(existing: SweepPlan, plan: SweepPlan) -> str:
    """What a grown ``plan`` has more, in one sentence."""
    parts = []
    for noun, before, now in (
        ("target", existing.targets, plan.targets),
        ("method", existing.methods, plan.methods),
    ):
        more = len(now) - len(before)
        if more:
            parts.append(f"{more} {noun}{'s' if more > 1 else ''} more")
    if plan.trials > existing.trials:
        parts.append(f"{plan.trials} trials instead of {existing.trials} for each")
    if plan.keep_weights > existing.keep_weights:
        parts.append(f"the weights of {plan.keep_weights} trials kept from now on")
    more = sum(plan.studies.values()) - sum(existing.studies.values())
    return f"Sweep {plan.name} grows: {', '.join(parts)}; {more} more trials, what it has stays."
