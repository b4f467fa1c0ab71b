"""What a page takes for granted, made small, and the walk through its commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import documented
from tests.data.builders_pictures import write_colours
from tests.desk import Desk
from tests.documented import Command
from tests.promises import NOT_TYPED, PROMISED, Promise, matches
from tests.sweeps import PATIENT
from trainables.data.demo import make_demo
from trainables.models.weights import load_weights

STIMULI = 80
"""Fewer leave too few for the test part."""
SMALL = {
    "SWEEP_WEIGHTS": "conv.npz",
    "SWEEP_PROFILE": "cpu,max_slots=1",
    "OMP_NUM_THREADS": "1",
    **PATIENT,
}
"""Every walk: weights that need no network, and one slot, since each starts processes of its own."""
ONE_TARGET = {
    "SWEEP_HEMISPHERES": "lh",
    "SWEEP_ROIS": "V1v",
    "SWEEP_CUTOFFS": "features.2",
    "SWEEP_TRIALS": "1",
    "SWEEP_EPOCHS": "1",
    "SWEEP_BATCH_SIZE": "32",
}
SMALLER = {
    "1-8": "1",
    "early,EBA": "V1v",
    "--trials 20": "--trials 4",
    "--trials 12": "--trials 1",
    "--epochs 12": "--epochs 2",
}
"""Numbers of a page that stand for a real sweep, and those that are typed for them."""
OWN = {
    "/data/algonauts": "algonauts",
    "NAME": "mine",
    "STORAGE": "results",
    "FILE": "cluster/gpu.yaml",
    "ROOT": "mylab",
    "--data DIR": "--data nsd",
    "--data s3://…": "--data s3://my-lab-sweeps/algonauts",
    "--storage s3://…": "--storage s3://my-lab-sweeps/results",
    "…": "",
}
"""What pages leave to their reader."""


CLUSTER = ("SWEEP_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
"""Variables by which a command joins a Ray that runs already."""


def page_named(name: str) -> Path:
    return next(page for page in documented.PAGES if page.name == name)


def promise_of(command: Command) -> Promise | None:
    fitting = [promise for promise in PROMISED.get(command.page, ()) if matches(command.text, promise.pattern)]
    return max(fitting, key=lambda promise: len(promise.pattern), default=None)


def not_typed(command: Command) -> bool:
    return any(matches(command.text, elsewhere.pattern) for elsewhere in NOT_TYPED)


def desk(folder: Path, **settings: str) -> Desk:
    """A folder with this program and small weights."""
    made = Desk(folder, {**SMALL, **settings}, {**OWN, **SMALLER})
    state = {name: value for name, value in load_weights("random").state.items() if name.startswith("features.")}
    arrays: dict[str, Any] = {name: value.numpy() for name, value in state.items()}
    np.savez(made.folder / "conv.npz", **arrays)
    return made


def algonauts(at: Desk, subjects: int = 1, name: str = "algonauts") -> Path:
    """Responses in the Algonauts layout, called as the folder is."""
    root = make_demo(at.folder / name, subjects=subjects, stimuli=STIMULI)
    (root / "dataset.json").unlink()
    return root


def without_right_hemisphere(root: Path) -> None:
    """As the macaques' data are."""
    for path in [*root.glob("subj*/*/*/rh*.npy"), *root.glob("subj*/*/rh*.npy")]:
        array = np.load(path)
        np.save(path, array[:, :0] if array.ndim == 2 else array[:0])


def own_data(at: Desk) -> None:
    """The first description of docs/data.md, and what it names."""
    subject = at.folder / "mylab/anna"
    (subject / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(60):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(subject / f"images/{number}.png")
    for hemisphere in ("lh", "rh"):
        np.save(subject / f"{hemisphere}.npy", generator.standard_normal((60, 25)).astype(np.float32))
    _, description = documented.blocks(page_named("data.md"), "toml")[0]
    (subject.parent / "dataset.toml").write_text(description)


def labelled(at: Desk, *names: str) -> None:
    for name in names:
        write_colours(at.folder / name, 15)


def save_space(at: Desk, page: str, name: str) -> None:
    """The page's Python block, in the file that it is to be saved as."""
    ((_, text),) = documented.blocks(page_named(page), "python")
    (at.folder / name).write_text(text)


def type_promised(at: Desk, command: Command, promise: Promise) -> None:
    """Type a command and hold it to what its page says of it."""
    link = page = ""
    if promise.serves:
        code, shown, link, page = at.serve(command.text)
    else:
        code, shown = at.type(command.text, promise.answers, CLUSTER if promise.alone else ())
    told = f"$ {command.text}\n{shown}"
    assert code == promise.code, f"exit code {code}: {told}"
    assert "Traceback" not in shown, told
    assert [words for words in promise.says if words not in shown] == [], told
    assert [name for name in promise.makes if not (at.folder / name).exists()] == [], told
    assert [name for name in promise.takes if (at.folder / name).exists()] == [], told
    if promise.serves:
        assert "MLflow" in page, page
        assert f"viewStateShareKey={promise.serves}" in link, link


def walk(at: Desk, page: str, python_needs: str | None = None) -> None:
    """Type a page's commands from top to bottom, and its Python blocks after ``python_needs`` if that is given."""
    steps: list[tuple[int, Callable[[], None]]] = []
    for command in documented.commands(page_named(page)):
        promise = promise_of(command)
        if promise is not None:
            steps.append((command.position, partial(type_promised, at, command, promise)))
    if python_needs is not None:
        for position, text in documented.blocks(page_named(page), "python"):
            steps.append((position, partial(_run_python, at, python_needs, text)))
    for _, step in sorted(steps, key=lambda step: step[0]):
        step()


def _run_python(at: Desk, needs: str, text: str) -> None:
    (at.folder / "typed.py").write_text(f"{needs}\n{text}\nprint(responses.dtype, responses.shape)\n")
    code, shown = at.type("python typed.py")
    assert (code, "float32 (2, 40)" in shown) == (0, True), shown


PICTURES = """import numpy as np
pictures = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)"""
"""What stands for the pictures that a page leaves to its reader."""
