"""Encoding of a whole subject, here, in the published way and by himalaya: seconds, and the same r.

    python -m benchmarks.encoding [--stimuli 600] [--rois 46] [--voxels 60] [--reference-rois 2] [--layers LAYER …]

Every readout layer's features are scored by five-fold cross-validation for nine penalties in every ROI. Here one Gram
matrix and one factorisation a fold serve all ROIs. The published way is scikit-learn's PCA and ridge for each ROI anew;
it runs on some of the ROIs, and its time for all is theirs by proportion. himalaya's KernelRidgeCV takes all voxels at
once, as here, without a PCA, and is compared without one; it is no dependency and left out where it is not installed.
Features are random networks' of the demo's pictures. Prints a table; exits with 1 if an r differs by 0.001 or more.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.published_way import encoding_of_an_roi
from trainables.data.demo_pictures import picture
from trainables.encoding.cross_validation import cross_validate, folds
from trainables.encoding.encoder import DEFAULT_ALPHAS
from trainables.encoding.features import extract_features
from trainables.models.backbone import backbone_spec, build_backbone
from trainables.models.hardware import choose_device
from trainables.models.weights import load_weights

MOST_DIFFERENCE = 1e-3


def pictures(n_stimuli: int) -> NDArray[np.uint8]:
    """The demo's pictures at the network's size."""
    size = (backbone_spec("alexnet").image_size,) * 2
    return np.stack([np.array(Image.fromarray(picture(number, 0)).resize(size)) for number in range(1, n_stimuli + 1)])


def responses_to(features: torch.Tensor, n_voxels: int) -> NDArray[np.float32]:
    """Noisy linear readouts of some features, ``[n_stimuli, n_voxels]``."""
    rng = np.random.default_rng(0)
    chosen = features[:, :500].cpu().numpy()
    signal = (chosen - chosen.mean(axis=0)) @ rng.standard_normal((chosen.shape[1], n_voxels))
    noisy: NDArray[np.float32] = (signal / signal.std() + rng.standard_normal(signal.shape)).astype(np.float32)
    return noisy


class Comparison:
    """Seconds of the three ways, and how far their r lie apart."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.device = choose_device()
        self.seconds = {"here": 0.0, "published": 0.0, "here, no PCA": 0.0, "himalaya": 0.0}
        self.apart = {"published": 0.0, "himalaya": 0.0}

    def timed(self, side: str, action: Any) -> Any:
        """Run it, and add its time."""
        started = time.perf_counter()
        result = action()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[side] += time.perf_counter() - started
        return result

    def add_layer(self, features: torch.Tensor, responses: NDArray[np.float32]) -> None:
        """Score one layer in all three ways."""
        n_components, voxels = self.asked.components, self.asked.voxels
        own = self.timed("here", lambda: cross_validate(features.clone(), responses, n_components=n_components))
        array, split = features.cpu().numpy(), list(folds(len(features)))
        for roi in range(self.asked.reference_rois):
            part = responses[:, roi * voxels : (roi + 1) * voxels]
            r = self.timed(
                "published",
                lambda: encoding_of_an_roi(array, part, split, n_components, DEFAULT_ALPHAS),  # noqa: B023
            )
            self._compare("published", r, own.r[:, roi * voxels : (roi + 1) * voxels])
        if find_spec("himalaya"):
            whole = self.timed(
                "here, no PCA", lambda: cross_validate(features.clone(), responses, n_components=len(features))
            )
            self._compare("himalaya", self.timed("himalaya", lambda: self._himalaya(features, responses)), whole.r)

    def _himalaya(self, features: torch.Tensor, responses: NDArray[np.float32]) -> NDArray[np.float64]:
        """Pearson r at each voxel's best penalty, mean over folds; what KernelRidgeCV does."""
        search = import_module("himalaya.kernel_ridge").solve_multiple_kernel_ridge_random_search
        score = import_module("himalaya.scoring").correlation_score
        backend = import_module("himalaya.backend").set_backend("torch_cuda" if self.device.type == "cuda" else "torch")
        centred = features - features.mean(dim=0)
        scores = search(
            (centred @ centred.T)[None],
            backend.asarray(responses, device=self.device.type),
            n_iter=torch.ones(1, 1, device=self.device),
            alphas=torch.tensor(DEFAULT_ALPHAS, dtype=features.dtype, device=self.device),
            cv=_Folds(len(features)),
            score_func=score,
            fit_intercept=True,
            return_weights="dual",
            progress_bar=False,
        )[2]
        return np.asarray(backend.to_numpy(scores), dtype=np.float64).ravel()

    def _compare(self, side: str, r: NDArray[np.float64], own: NDArray[np.float64]) -> None:
        theirs = own if r.shape == own.shape else own.max(axis=0)
        self.apart[side] = max(self.apart[side], float(np.abs(r - theirs).max()))

    def conclude(self, layers: list[str]) -> int:
        """Print the table; 1 if an r differs."""
        asked, seconds = self.asked, self.seconds
        whole = seconds["published"] * asked.rois / asked.reference_rois
        title = (
            f"{asked.stimuli} stimuli, {asked.rois} ROIs of {asked.voxels} voxels, {len(layers)} layers, {self.device}"
        )
        table = Table("", "seconds", "ratio", "largest difference of r", title=title)
        table.add_row("here", f"{seconds['here']:.1f}", "", "")
        table.add_row(
            f"scikit-learn, of {asked.reference_rois} ROIs by proportion",
            f"{whole:.0f}",
            f"{whole / seconds['here']:.0f}",
            f"{self.apart['published']:.1e}",
        )
        if seconds["himalaya"]:
            ratio = seconds["himalaya"] / seconds["here, no PCA"]
            table.add_row("here, all components", f"{seconds['here, no PCA']:.1f}", "", "")
            table.add_row("himalaya", f"{seconds['himalaya']:.1f}", f"{ratio:.1f}", f"{self.apart['himalaya']:.1e}")
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        return 1 if max(self.apart.values()) >= MOST_DIFFERENCE else 0


class _Folds:
    """The folds of `cross_validate`, as scikit-learn's splitters offer theirs."""

    def __init__(self, n_stimuli: int) -> None:
        self.folds = list(folds(n_stimuli))

    def get_n_splits(self, *_: object) -> int:
        """How many folds."""
        return len(self.folds)

    def split(self, *_: object) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to fit on and to score."""
        return self.folds


def main() -> int:
    """Score layer by layer, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", type=int, default=600)
    parser.add_argument("--rois", type=int, default=46)
    parser.add_argument("--voxels", type=int, default=60, help="of each ROI")
    parser.add_argument("--reference-rois", type=int, default=2, help="on which scikit-learn runs")
    parser.add_argument("--components", type=int, default=300)
    parser.add_argument("--layers", nargs="+", default=list(backbone_spec("alexnet").readout_layers))
    asked = parser.parse_args()
    comparison = Comparison(asked)
    network = build_backbone("alexnet", load_weights("random").state, "output").to(comparison.device)
    stimuli, rows = pictures(asked.stimuli), np.arange(asked.stimuli)
    responses = None
    for layer in asked.layers:
        features = extract_features(network, stimuli, rows, [layer])[layer]
        if responses is None:
            responses = responses_to(features, asked.rois * asked.voxels)
        comparison.add_layer(features, responses)
        print(f"{layer} done", flush=True)
    return comparison.conclude(asked.layers)


if __name__ == "__main__":
    sys.exit(main())
