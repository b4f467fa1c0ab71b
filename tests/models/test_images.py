"""Normalisation against torchvision's, and the stimuli that stay on a device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from trainables.errors import ConfigError
from trainables.models.backbone import BACKBONES
from trainables.models.images import StimulusCache, normalised_batch

SPEC = BACKBONES["alexnet"]
CPU = torch.device("cpu")
# Stands for an accelerator: tensors there have a shape and a device, and no values.
ELSEWHERE = torch.device("meta")


def _stimuli(n_stimuli: int = 4, seed: int = 0) -> np.ndarray:
    shape = (n_stimuli, SPEC.image_size, SPEC.image_size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_normalised_as_torchvision_does(kind: str) -> None:
    stimuli, rows = _stimuli(), np.array([3, 0, 3])
    images = normalised_batch(stimuli if kind == "array" else torch.from_numpy(stimuli), rows, SPEC, CPU)
    expected = torch.stack(
        [functional.normalize(functional.to_tensor(stimuli[row]), list(SPEC.mean), list(SPEC.std)) for row in rows]
    )
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_stimuli_are_not_written_to() -> None:
    stimuli = _stimuli()
    before = stimuli.copy()
    normalised_batch(stimuli, np.arange(4), SPEC, CPU)
    np.testing.assert_array_equal(stimuli, before)


def test_refuses_other_types_and_sizes() -> None:
    with pytest.raises(ConfigError, match=r"float32.*expects uint8 \[n, 224, 224, 3\]"):
        normalised_batch(_stimuli().astype(np.float32), np.arange(1), SPEC, CPU)
    with pytest.raises(ConfigError, match=r"\(4, 100, 224, 3\)"):
        normalised_batch(_stimuli()[:, :100], np.arange(1), SPEC, CPU)


def test_cache_copies_nothing_on_a_cpu() -> None:
    stimuli = _stimuli()
    assert StimulusCache().on_device(stimuli, CPU) is stimuli


def test_cache_keeps_one_subject_and_knows_its_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.npy" for name in ("first", "second")]
    for seed, path in enumerate(paths):
        np.save(path, _stimuli(2, seed))
    first, again, second = (np.load(path, mmap_mode="r") for path in (paths[0], paths[0], paths[1]))
    cache = StimulusCache()
    copy = cache.on_device(first, ELSEWHERE)
    assert isinstance(copy, torch.Tensor)
    assert copy.device == ELSEWHERE
    assert copy.shape == first.shape
    assert cache.on_device(again, ELSEWHERE) is copy
    assert cache.on_device(second, ELSEWHERE) is not copy
    assert cache.on_device(first, ELSEWHERE) is not copy
