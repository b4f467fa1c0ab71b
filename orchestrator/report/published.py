"""Section that puts the published figures beside the sweep's own, where both were made in the same way.

Source: arXiv 2410.06067, mean Pearson r over subjects and ROIs of the Natural Scenes Dataset, AlexNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.grouping import grouped, mean, with_target_parts
from orchestrator.report.parts import Cell, Column, Section, Table
from orchestrator.report.results import Results

HIGHER = ("bodies", "faces", "places", "words")
REGIONS = {"early": ("early",), "higher": HIGHER, "streams": ("streams",), "all": ("early", *HIGHER, "streams")}
ENCODING: dict[str, dict[str, dict[str, float]]] = {
    "published-a": {
        "untuned": {"early": 0.4305, "higher": 0.3820, "streams": 0.3645, "all": 0.3903},
        "contrastive": {"early": 0.4340, "higher": 0.3824, "streams": 0.3709, "all": 0.3931},
        "regression": {"early": 0.4240, "higher": 0.3593, "streams": 0.3478, "all": 0.3735},
    },
    "published-b": {
        "untuned": {"early": 0.3861, "higher": 0.3546, "all": 0.3662},
        "regression": {"early": 0.4091, "higher": 0.3651, "all": 0.3811},
        "contrastive": {"early": 0.4165, "higher": 0.3683, "all": 0.3858},
        "pooled-avg": {"early": 0.4278, "higher": 0.3677, "all": 0.3896},
        "pooled-const": {"early": 0.4277, "higher": 0.3690, "all": 0.3904},
    },
}
VOXELS_ABOVE_UNTUNED = {"early": 74.3, "higher": 50.4}
"""Per cent, contrastive, protocol published-a."""
CLASSIFICATION = {"imagenet": 0.458, "caltech256": 0.703, "places365": 0.291}
"""Accuracy of the untuned network."""


def published_section(results: Results) -> Section:
    """The published table, with the sweep's own numbers where they may stand beside it."""
    title = "Beside the published figures"
    reason = why_not(results)
    own = _own(results) if not reason else {}
    tables = [_encoding_table(results, protocol, own) for protocol in ENCODING]
    tables.append(_classification_table(results))
    lead = (
        "Published figures of contrastive tuning for the visual cortex (arXiv 2410.06067): mean Pearson r over ROIs "
        "and subjects. Its contrastive gain on NOD is 7.1 % of the untuned r."
    )
    own_shown = own or results.sets("classification")
    remarks = tuple(filter(None, (reason, _unverified(results) if own_shown else "")))
    return Section("published", title, lead, (), tuple(tables), remarks)


def _unverified(results: Results) -> str:
    """What to know of weights that came as a file other than torchvision's own; empty for others."""
    plan = results.plan
    if plan.weights_source in ("imagenet", "random") or plan.backbone != "alexnet":
        return ""
    return (
        f"The sweep's own networks start from the file {plan.weights_source} (content {plan.weights_digest[:12]}), the "
        "published ones from ImageNet's weights: whether these are the same cannot be verified here, and own figures "
        "are comparable only if they are."
    )


def why_not(results: Results) -> str:
    """Why the sweep's own numbers may not stand beside the published ones; empty if they may."""
    plan = results.plan
    content = results.files["encoding"]
    protocol = (content or {}).get("protocol", plan.protocol)
    if protocol not in ENCODING:
        return (
            f"The sweep's own figures are left out: its protocol is {protocol}, the published ones were made by "
            f"{' and '.join(ENCODING)}, which choose and score on other stimuli; a sweep with one of these makes them "
            "comparable."
        )
    if plan.weights_source == "random" or plan.backbone != "alexnet":
        return (
            f"The sweep's own figures are left out: its networks start from {plan.backbone} with weights "
            f"{plan.weights_source}, the published ones from alexnet with weights imagenet."
        )
    if plan.dataset == "demo":
        return (
            "The sweep's own figures are left out: the demo set's responses are simulated, the published ones measured."
        )
    if content is None:
        return results.command("encoding")
    return ""


def _own(results: Results) -> dict[str, dict[tuple[str, str], tuple[float | None, float | None, int]]]:
    """By protocol: method and region to mean test r, mean per cent of voxels above untuned, and number of targets."""
    rows = with_target_parts(results.rows("encoding"), results.plan.roi_groups)
    found: dict[tuple[str, str], tuple[float | None, float | None, int]] = {}
    for method, of_method in grouped(rows, lambda row: str(row["method"])).items():
        for region, groups in REGIONS.items():
            members = [row for row in of_method if row["roi_group"] in groups]
            found[method, region] = (mean(members, "test_r"), mean(members, "voxels_improved_percent"), len(members))
    return {str((results.files["encoding"] or {})["protocol"]): found}


def _encoding_table(
    results: Results, protocol: str, own: Mapping[str, Mapping[tuple[str, str], tuple[Any, Any, int]]]
) -> Table:
    ours = own.get(protocol, {})
    rows: list[tuple[Cell, ...]] = []
    for method, regions in ENCODING[protocol].items():
        for region, r in regions.items():
            above = VOXELS_ABOVE_UNTUNED.get(region) if (protocol, method) == ("published-a", "contrastive") else None
            own_r, own_above, n_targets = ours.get((method, region), (None, None, 0))
            rows.append((method, region, r, own_r, above, own_above if above is not None else None, n_targets))
    columns: Sequence[Column] = (
        Column("method"),
        Column("ROIs"),
        Column("published r", ".4f"),
        Column("own r", ".4f"),
        Column("published % voxels above untuned", ".1f"),
        Column("own % voxels above untuned", ".1f"),
        Column("own targets"),
    )
    basis = f"Published: protocol {protocol}, its own split, " + (
        "one layer and penalty per ROI from the untuned network."
        if protocol == "published-a"
        else "optimistic: layer and penalty are chosen on the folds that are reported."
    )
    if ours:
        basis += f" Own: {results.basis('encoding')}"
    note = "Means over targets (subject, hemisphere, ROI), each counting once."
    return Table(f"published_{protocol[-1]}", f"Encoding, {protocol}", basis, tuple(columns), tuple(rows), note)


def _classification_table(results: Results) -> Table:
    sets = results.sets("classification")
    rows = []
    for name, accuracy in CLASSIFICATION.items():
        untuned = [row for row in sets.get(name, {}).get("rows", []) if row["method"] == "untuned"]
        pretrained = results.plan.weights_source != "random" and results.plan.backbone == "alexnet"
        rows.append((name, accuracy, mean(untuned, "accuracy") if pretrained else None))
    columns = (Column("image set"), Column("published accuracy", ".3f"), Column("own accuracy", ".3f"))
    basis = "Logistic regression on classifier.5 features of the untuned network, 85/15 split of each set with seed 0."
    return Table("published_classification", "Classification by the untuned network", basis, columns, tuple(rows))
