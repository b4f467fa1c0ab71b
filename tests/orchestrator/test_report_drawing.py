"""Figures that stay readable with many labels, and marks that stay visible with few points."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from orchestrator.report.drawing import cloud_look, dots_height, draw, method_series, paint_dots
from orchestrator.report.heat import heat_height, heat_width, paint_heat
from orchestrator.report.voxels import _scatter

ROIS = [f"{name}{number}" for name in ("V", "IPS-", "VWFA-", "midventral-") for number in range(12)][:46]
LIMITS = (0.0, 0.5)


@pytest.mark.parametrize("n_columns, form", [(3, "+.3f"), (10, "+.2f"), (30, "+.3f"), (46, "+.2f")])
def test_names_and_numbers_of_a_matrix_do_not_overlap(n_columns: int, form: str) -> None:
    seen: dict[str, Any] = {}
    rows, columns = ROIS, ROIS[-n_columns:]
    values = np.full((len(rows), n_columns), 0.25)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        paint_heat(figure, axes, values, rows, columns, unit="r", form=form, limits=LIMITS)
        seen["axes"] = axes

    picture = draw(
        "heat", "", heat_height(len(rows), columns), paint, heat_width(rows, columns, letters=len(format(0.25, form)))
    )
    axes = seen["axes"]
    names = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(names))
    numbers = [text.get_window_extent() for text in axes.texts[:n_columns]]
    assert all(left.x1 <= right.x0 for left, right in pairwise(numbers))
    label = axes.get_xticklabels()[0]
    pitch = (axes.transData.transform((1, 0)) - axes.transData.transform((0, 0)))[0]
    letter = label.get_fontsize() / 72 * axes.figure.dpi
    assert pitch * math.sin(math.radians(label.get_rotation())) > letter
    assert (picture.scale > 1.5) == (n_columns >= 30)


def test_dots_of_many_rois_and_hemispheres_can_be_drawn() -> None:
    labels = [f"{roi} {n}" for roi in ROIS for n in range(8)]
    series = [method_series(f"m{n}", {label: [0.1] for label in labels}) for n in range(10)]
    height = dots_height(len(labels), len(series))
    assert height * 200 > 2**16
    picture = draw("dots", "", height, lambda figure: paint_dots(figure, labels[:1], series, "r"))
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.height <= 60_000


def test_few_marks_are_large_and_many_small() -> None:
    looks = [cloud_look(n) for n in (1, 20, 100, 1000, 5000, 100_000)]
    assert looks == sorted(looks, reverse=True)
    sizes, alphas = zip(*looks, strict=True)
    assert (sizes[1], alphas[1]) == pytest.approx((40, 0.85))
    assert sizes[-2] < 3
    assert alphas[-2] < 0.3


@pytest.mark.parametrize("n, low, high", [(20, 0.004, 0.05), (5000, 0.02, 0.3)])
def test_voxels_are_seen_and_are_no_blot(n: int, low: float, high: float) -> None:
    random = np.random.default_rng(0)
    untuned = random.uniform(0, 0.6, n)
    picture = _scatter("early", untuned, untuned + 0.05 * random.standard_normal(n))
    with Image.open(io.BytesIO(picture.png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60).mean()
    assert low < blue < high
