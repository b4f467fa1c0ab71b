"""Predicts a visual area's responses from pictures, with torch and NumPy (and Pillow, to open or resize pictures).

    python predict.py picture.png                          prints the responses, a line for each voxel
    python predict.py one.png two.png --save responses.npy keeps them, [n_pictures, n_voxels]

From Python: ``model = load(folder)``, then ``model.features(images)`` and ``model.predict(images)``; `features` and
`predict` of this module are those of the model that lies beside it. README.md says what it is and what it is worth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
PICTURES_AT_A_TIME = 64
FEATURES_AT_A_TIME = 8192  # their products are summed in float64: float32 loses digits over so many


class Model:
    """The network up to its readout layer and the encoding model behind it, on the CPU."""

    def __init__(self, folder: str | Path = FOLDER) -> None:
        folder = Path(folder)
        self.about: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with np.load(folder / "encoding.npz", allow_pickle=False) as arrays:
            # Shapes are [n_features, n_voxels], [n_features] and [n_voxels].
            self.coef, self.feature_mean, self.response_mean = (
                torch.from_numpy(arrays[name]) for name in ("coef", "feature_mean", "response_mean")
            )
            self.voxels = arrays["voxels"] if "voxels" in arrays.files else None
        with np.load(folder / "network.npz", allow_pickle=False) as weights:
            self.network = _with_weights({name: torch.from_numpy(weights[name]) for name in weights.files})

    def features(self, images: Any) -> np.ndarray:
        """Activations at the readout layer, flattened channel by channel, row by row: float32 [n, n_features].

        ``images``: RGB, uint8 [n, height, width, 3] of any size, or a list of file names or Pillow images.
        """
        return np.concatenate([self._activations(batch).numpy() for batch in self._batches(images)])

    def predict(self, images: Any) -> np.ndarray:
        """Responses in the unit of those that it was fitted to: float32 [n, n_voxels]; images as above."""
        return np.concatenate([self._responses(self._activations(batch)) for batch in self._batches(images)])

    def _batches(self, images: Any) -> list[np.ndarray]:
        pixels = _pixels(images, self.about["image_size"])
        return [pixels[i : i + PICTURES_AT_A_TIME] for i in range(0, max(1, len(pixels)), PICTURES_AT_A_TIME)]

    @torch.inference_mode()
    def _activations(self, pixels: np.ndarray) -> Tensor:
        mean, std = (torch.tensor(self.about[name])[:, None, None] for name in ("mean", "std"))
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        found: Tensor = self.network(images.mul_(1.0 / (255.0 * std)).sub_(mean / std))
        return found.flatten(1)

    def _responses(self, features: Tensor) -> np.ndarray:
        centred = features - self.feature_mean.float()
        total = self.response_mean.repeat(len(centred), 1)
        for start in range(0, centred.shape[1], FEATURES_AT_A_TIME):
            block = slice(start, start + FEATURES_AT_A_TIME)
            total += (centred[:, block] @ self.coef[block].float()).double()
        return total.float().numpy()


def _pixels(images: Any, size: int) -> np.ndarray:
    """Pictures in the network's size: uint8 [n, size, size, 3]."""
    if isinstance(images, (list, tuple)):
        pictures = [_opened(image) for image in images]
    else:
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise ValueError(
                f"images are {pixels.dtype} {pixels.shape}; expected uint8 [n, height, width, 3], or a list"
            )
        if pixels.shape[1:3] == (size, size):
            return np.ascontiguousarray(pixels)
        from PIL import Image

        pictures = [Image.fromarray(each) for each in pixels]
    resized = [np.asarray(each.resize((size, size), 2)) for each in pictures]  # 2: bilinear, as in training
    return np.stack(resized) if resized else np.empty((0, size, size, 3), np.uint8)


def _opened(image: Any) -> Any:
    from PIL import Image

    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        image = Image.open(image)
    if image.mode[0] in "IF":
        raise ValueError(f"a picture has more than 8 bits a channel (mode {image.mode}); save it as 8-bit RGB")
    return image.convert("RGB")


def _with_weights(weights: Mapping[str, Tensor]) -> nn.Sequential:
    with torch.device("meta"):  # without memory: what it would be filled with is overwritten
        named = layers()
    for name, layer in named:
        own = {key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(f"{name}.")}
        layer.load_state_dict(own, assign=True)
    return nn.Sequential(*(layer for _, layer in named)).eval()


@lru_cache(maxsize=1)
def load(folder: str | Path = FOLDER) -> Model:
    """The model of a folder; asked again for the same one, the same model."""
    return Model(folder)


def features(images: Any) -> np.ndarray:
    """`Model.features` of the model beside this file."""
    return load(FOLDER).features(images)


def predict(images: Any) -> np.ndarray:
    """`Model.predict` of the model beside this file."""
    return load(FOLDER).predict(images)


def main() -> None:
    """What ``python predict.py`` does."""
    parser = argparse.ArgumentParser(description="Predicts responses from pictures.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--save", metavar="FILE.npy", help="keep the responses, [n_pictures, n_voxels]")
    asked = parser.parse_args()
    try:
        responses = predict(asked.pictures)
        if asked.save:
            np.save(asked.save, responses)
            return
    except (OSError, ValueError, ImportError) as error:  # a file that is not there, or no picture; no Pillow
        parser.exit(1, f"Error: {error}\n")
    voxels = load(FOLDER).voxels
    print("voxel", *asked.pictures, sep="\t")
    for column in range(responses.shape[1]):
        number = column if voxels is None else voxels[column]
        print(number, *(f"{value:.6f}" for value in responses[:, column]), sep="\t")


# --- The network, layer by layer, under the names that its weights have.


def layers() -> list[tuple[str, nn.Module]]:
    """The network alexnet up to features.2, where it is read."""
    return [
        ("features.0", nn.Conv2d(3, 64, (11, 11), stride=(4, 4), padding=(2, 2))),
        ("features.1", nn.ReLU()),
        ("features.2", nn.MaxPool2d(3, stride=2)),
    ]


# --- End of the network.


if __name__ == "__main__":
    main()
