"""The README of an exported model: what it is, for whom, what it is worth, and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.data.splits import NESTED

About = Mapping[str, Any]
"""What ``model.json`` holds, see `orchestrator.export`."""

SHOWN = {
    "layer_cutoff": "layer cutoff",
    "objective": "objective",
    "temperature": "temperature",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "epochs": "epochs",
    "weight_decay": "weight decay",
}
CONTRASTIVE_ALONE = ("objective", "temperature")


def model_card(about: About, use: str | None = None) -> str:
    """Markdown with everything that a reader without this project needs.

    Args:
        about: the model.
        use: the section on how it is loaded; None for that of the exported folder.
    """
    side = {"lh": "left", "rh": "right"}[about["hemisphere"]]
    sections = [
        f"# {about['roi']}, {side} hemisphere, {about['subject']} ({about['dataset']})",
        _purpose(about),
        use or _use(about),
        "## Where it comes from\n\n" + _table(_origin(about)),
        "## What it is worth\n\n" + _table(_scores(about)) + "\n\n" + _explained(about),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(about)),
        _licence(about),
    ]
    return "\n\n".join(sections) + "\n"


def _purpose(about: About) -> str:
    return (
        f"Predicts the responses of {about['n_voxels']} voxels from photographs: {about['backbone']} up to its layer "
        f"`{about['readout_layer']}`, and a linear encoding model ({about['encoder']['solver']}) on the "
        f"{about['n_features']} features there. For work on what this area responds to: new pictures, other models to "
        "compare with, features for data of your own."
    )


def _use(about: About) -> str:
    numbers = (
        f"`encoding.npz` lacks the numbers of the voxels: {about['voxel_numbers_missing']}."
        if about["voxel_numbers_missing"]
        else "`model.voxels` has the place of each predicted voxel in the subject's response array of this hemisphere, "
        "counted from 0 (the challenge space, for the Algonauts 2023 layout)."
    )
    return f"""## Use

Needs Python with torch, NumPy and Pillow, and nothing else.

```console
$ python predict.py picture.png
$ python predict.py one.png two.png --save responses.npy
```

```python
from predict import load

model = load(".")  # this folder
responses = model.predict(["picture.png"])  # float32 [n_pictures, {about["n_voxels"]}]
features = model.features(["picture.png"])  # float32 [n_pictures, {about["n_features"]}]
```

Pictures are file names, Pillow images, or one uint8 array `[n, height, width, 3]`, RGB, of any size: they are resized
to {about["image_size"]} × {about["image_size"]} pixels, as in training. {numbers}

| file | holds |
| --- | --- |
| `predict.py` | the network and the prediction, to be read |
| `network.npz` | the network's weights by name |
| `encoding.npz` | `coef` [n_features, n_voxels], `feature_mean`, `response_mean`, `voxels` |
| `model.json` | everything that this page says, for programs |"""


def _origin(about: About) -> dict[str, str]:
    others = [name for name in about["tuned_for"] if name != about["subject"]]
    rows = {
        "data set": about["dataset"],
        "subject, hemisphere, ROI": f"{about['subject']}, {about['hemisphere']}, {about['roi']}",
        "method": about["method"] + (f" (network shared with {', '.join(others)})" if others else ""),
        "champion": "yes: best of its target over all methods" if about["champion"] else "no",
        "readout layer": about["readout_layer"],
        "pretrained weights": f"{about['pretrained']['source']} (digest {about['pretrained']['digest'][:16]})",
    }
    for name, heading in SHOWN.items():
        if name in about["parameters"] and (name not in CONTRASTIVE_ALONE or about["method"] != "regression"):
            rows[heading] = str(about["parameters"][name])
    rows["protocol"] = f"{about['protocol']}, split {about['split_digest']}"
    rows["sweep, trial"] = f"{about['sweep']}, {about['trial']}"
    rows["made with"] = f"cortex-sweep {about['version']}, commit {about['git_commit']}"
    return rows


def _scores(about: About) -> dict[str, str]:
    name = "validation r" if about["protocol"] == NESTED else "r by cross-validation in training"
    rows = {name: f"{about['validation_r']:.3f}"}
    test = about["test"]
    if test is None:
        return rows | {"test r": "not evaluated"}
    interval = test["r_interval"]
    between = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    rows["test r"] = f"{test['r']:.3f}{between}, {test['n_stimuli']} pictures"
    if test["noise_normalised_r2"] is not None:
        rows["test r² / noise ceiling"] = f"{test['noise_normalised_r2']:.3f}, median over voxels"
    return rows


def _explained(about: About) -> str:
    text = "r is the mean over voxels of the Pearson correlation between predicted and measured responses."
    if about["protocol"] == NESTED:
        text += (
            " Readout layer, parameters and epoch were chosen on validation pictures, so validation r is optimistic."
        )
    else:
        text += " This protocol scores an encoding model of its own, which is not the one in this folder."
    test = about["test"] or {}
    if test.get("r_interval"):
        text += " The interval resamples test pictures, with these voxels: it says nothing of other subjects."
    return text + (f" {test['remark'].capitalize()}." if test.get("remark") else "")


def _limits(about: About) -> list[str]:
    limits = [
        f"It is a model of one subject ({about['subject']}); another brain's voxels are others.",
        "Responses are in the unit of the data set's arrays (for NSD z-scores within the subject), without noise.",
        "It was fitted to photographs; drawings, text or gratings are outside of what it has seen.",
        "A high r says that the features predict the area linearly, not that the area computes them.",
    ]
    if about["simulated_responses"]:
        limits.insert(0, "The responses are simulated (a demonstration set): it says nothing about any brain.")
    if about["pretrained"]["source"] == "random":
        limits.insert(0, "The backbone began with random weights, not with those of a trained network.")
    return limits


def _licence(about: About) -> str:
    source = about["pretrained"]["source"]
    weights = "" if source == "random" else f"the pretrained weights ({source}) and from "
    return (
        f"## Licence\n\n`predict.py` is under the MIT licence. Weights and coefficients are derived from {weights}"
        f"the pictures and responses of {about['dataset']}: whoever gave them has set terms, which may reach this "
        "folder, so look at them before you pass it on, and cite the sources."
    )


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
