"""A selected model that predicts voxel responses from pictures, in any process that can read its folder.

MLflow loads it as a Python function through `_load_pyfunc`; nothing in the folder is pickled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

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
            images: RGB, uint8 ``[n, height, width, 3]``; any size, resized as the training stimuli were.
            params: ignored; MLflow passes it.

        Returns:
            float32 ``[n, n_voxels]``.

        Raises:
            DataError: another shape or type.
        """
        pictures = np.asarray(images)
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
            raise DataError(
                f"images are {pictures.dtype} {pictures.shape}; expected uint8 [n, height, width, 3] in RGB order"
            )
        batches = [pictures[start : start + BATCH] for start in range(0, max(1, len(pictures)), BATCH)]
        predict = partial(predict_responses, self.network, self.model.readout_layer, self.encoder)
        return np.concatenate([predict(self._resized(batch)) for batch in batches])

    def _resized(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = backbone_spec(self.model.backbone).image_size
        if pictures.shape[1:3] == (size, size):
            return pictures
        resized = np.empty((len(pictures), size, size, 3), np.uint8)
        for place, picture in zip(resized, pictures, strict=True):
            place[:] = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
        return resized

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


def _load_pyfunc(data_path: str) -> ResponsePredictor:
    """What `mlflow.pyfunc.load_model` calls."""
    return ResponsePredictor.load(Path(data_path))
