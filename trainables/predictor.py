"""A selected model that predicts voxel responses from pictures, in any process that can read its folder.

MLflow loads it as a Python function through `_load_pyfunc`; nothing in the folder is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from trainables.data.decoding import decode_image
from trainables.data.files import read_bytes
from trainables.encoding.features import extract_features
from trainables.encoding.linear import LinearEncoder
from trainables.encoding.pls import load_encoder
from trainables.errors import DataError
from trainables.evaluations.encoding import predict_responses
from trainables.models.backbone import Backbone, backbone_spec, build_backbone
from trainables.models.hardware import choose_device
from trainables.models.tuned_model import TunedModel

BATCH = 64
"""Pictures whose features are held at once."""


class ResponsePredictor:
    """The network up to its readout layer, and the encoding model behind it."""

    def __init__(self, model: TunedModel, encoder: LinearEncoder, device: str = "auto") -> None:
        self.model = model
        self.encoder = encoder
        self.network: Backbone = model.build().to(choose_device(device))

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Predicted responses, z-scored as the training responses were.

        Args:
            images: RGB, uint8 ``[n, height, width, 3]``, or a list of file names, Pillow images or arrays ``[height,
                width, 3]``; any size, resized as the training stimuli were.
            params: ignored; MLflow passes it.

        Returns:
            float32 ``[n, n_voxels]``.

        Raises:
            DataError: another shape or type, or a file that is no picture.
        """
        predict = partial(predict_responses, self.network, self.model.readout_layer, self.encoder)
        return np.concatenate([predict(batch) for batch in self._batches(images)])

    def features(self, images: Any, layer: str | None = None) -> NDArray[np.float32]:
        """What the network finds in pictures, flattened channel by channel, row by row.

        Args:
            images: as for `predict`.
            layer: a readout layer that the network still has; its own one by default.

        Returns:
            float32 ``[n, n_features]``.

        Raises:
            ConfigError: a layer that it lacks.
            DataError: as for `predict`.
        """
        wanted = layer or self.model.readout_layer
        found = [
            extract_features(self.network, batch, np.arange(len(batch)), [wanted])[wanted].cpu().numpy()
            for batch in self._batches(images)
        ]
        return np.concatenate(found)

    def _batches(self, images: Any) -> Iterator[NDArray[np.uint8]]:
        """Pictures in the network's size, some at a time; a single empty batch where there is none."""
        size = backbone_spec(self.model.backbone).image_size
        if not (isinstance(images, list | tuple) and images):
            images = _require_pixels(np.asarray(images))
        for start in range(0, max(1, len(images)), BATCH):
            batch = images[start : start + BATCH]
            if isinstance(batch, np.ndarray) and batch.shape[1:3] == (size, size):
                yield batch
            else:
                resized = np.empty((len(batch), size, size, 3), np.uint8)
                for place, picture in zip(resized, batch, strict=True):
                    place[:] = np.asarray(_opened(picture).resize((size, size), Image.Resampling.BILINEAR))
                yield resized

    def save(self, directory: Path | UPath) -> None:
        """Write the model and the encoding model, cut at the readout layer: what lies behind it predicts nothing.

        Raises:
            StorageError: the directory cannot be written.
        """
        self.encoder.save(directory / "encoder")
        layer = self.model.readout_layer
        network = build_backbone(self.model.backbone, self.model.state, layer)
        cut = replace(self.model, layer_cutoff=layer, state=network.state_dict(), head={})
        cut.save(directory / "model")

    @classmethod
    def load(cls, directory: Path | UPath, device: str = "auto") -> ResponsePredictor:
        """Inverse of `save`.

        Raises:
            WeightsError: files that are missing or damaged.
        """
        return cls(TunedModel.load(directory / "model"), load_encoder(directory / "encoder"), device)


def _require_pixels(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise DataError(
            f"images are {pictures.dtype} {pictures.shape}; expected uint8 [n, height, width, 3] in RGB order"
        )
    return pictures


def _opened(picture: Any) -> Image.Image:
    """One picture of a list as an 8-bit RGB image."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_require_pixels(picture[None])[0])
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if not isinstance(picture, str | Path | UPath):
        raise DataError(f"images hold a {type(picture).__name__}; expected file names, Pillow images or uint8 arrays")
    place = UPath(picture)
    return decode_image(read_bytes(place), place)


def _load_pyfunc(data_path: str) -> ResponsePredictor:
    """What `mlflow.pyfunc.load_model` calls."""
    return ResponsePredictor.load(Path(data_path))
