"""From stimuli, as bytes, to what a backbone sees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.errors import ConfigError
from trainables.models.backbone import BackboneSpec

_STIMULI_AT_A_TIME = 1024

Stimuli = NDArray[np.uint8] | Tensor
"""RGB, uint8 ``[n, size, size, 3]``: an array (memory-mapped or not), or a tensor on the computing device."""


def normalised_batch(stimuli: Stimuli, rows: NDArray[np.int64], spec: BackboneSpec, device: torch.device) -> Tensor:
    """Some stimuli as the backbone was pretrained on: in [0, 1], less the mean, over the standard deviation.

    Args:
        stimuli: where the rows are taken from.
        rows: which stimuli, in which order, ``[n_rows]``.
        spec: of the backbone that will see them.
        device: where the result lies and the arithmetic is done, so that only bytes travel.

    Returns:
        float32 ``[n_rows, 3, size, size]`` in channels_last memory, which is how the pixels came.

    Raises:
        ConfigError: stimuli of another type or size than the backbone's.
    """
    expected = (spec.image_size, spec.image_size, 3)
    if stimuli.dtype not in (np.uint8, torch.uint8) or tuple(stimuli.shape[1:]) != expected:
        raise ConfigError(
            f"stimuli are {stimuli.dtype} of shape {tuple(stimuli.shape)}; {spec.name} expects uint8 "
            f"[n, {', '.join(map(str, expected))}]"
        )
    if isinstance(stimuli, Tensor):
        # A copy that blocks would make a GPU wait for Python at every step.
        pixels = stimuli[torch.from_numpy(rows).to(stimuli.device, non_blocking=True)]
    else:
        pixels = torch.from_numpy(stimuli[rows])
    images = pixels.to(device).permute(0, 3, 1, 2).float()
    scale, offset = _scale_and_offset(tuple(spec.mean), tuple(spec.std), device)
    return images.mul_(scale).sub_(offset)


@lru_cache(maxsize=16)
def _scale_and_offset(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What pixels are multiplied by and what is then subtracted, ``[3, 1, 1]`` each."""
    with torch.inference_mode(False):  # whoever asks first may be in that mode; tuning has to be able to use them
        on_device = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
        mean_there, std_there = on_device
        return 1.0 / (255.0 * std_there), mean_there / std_there


class StimulusCache:
    """Keeps the stimuli of the subject in hand on a CUDA device, where a batch is then a gather of bytes.

    A subject of 10 000 stimuli takes 1.5 GB. One subject is kept: the next one takes its place. On a CPU
    nothing is copied, since a memory map is as near as it gets.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._source: NDArray[np.uint8] | None = None
        self._copy: Tensor | None = None

    def on_device(self, stimuli: NDArray[np.uint8], device: torch.device) -> Stimuli:
        """The stimuli themselves for a CPU, else their copy on the device.

        Two memory maps of one file are the same stimuli, since the files of decoded stimuli are named by
        content.
        """
        if device.type == "cpu":
            return stimuli
        key = (getattr(stimuli, "filename", None) or id(stimuli), stimuli.shape, device)
        if self._copy is None or key != self._key:
            self._copy = None  # freed before the next one is allocated
            self._copy = _copied(stimuli, device)
            # The array is held on to, so that its id is not given to another one.
            self._key, self._source = key, stimuli
        return self._copy


def _copied(stimuli: NDArray[np.uint8], device: torch.device) -> Tensor:
    """All stimuli on the device, in parts: the host never holds a second copy of the file."""
    copy = torch.empty(stimuli.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(stimuli), _STIMULI_AT_A_TIME):
        part = slice(start, start + _STIMULI_AT_A_TIME)
        copy[part] = torch.from_numpy(np.array(stimuli[part])).to(device)
    return copy
