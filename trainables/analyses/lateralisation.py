"""Which side of the visual field a model weighs: left-hemisphere areas see the right field, and the reverse.

The index of a map is (mass left - mass right) / (mass left + mass right). A picture has an asymmetry of its own, which
changes its sign in the mirror; what a model prefers does not. Write the index of a picture as ``p + a`` and that of its
mirror image as ``p - a``: half their sum is the model's preference p, half their difference the picture's asymmetry a.

p still holds a preference of the network itself (a convolution's grid need not be centred, weights are not symmetric).
It is the same for both hemispheres and leaves with their difference ``p_right - p_left``: above 0 if the right
hemisphere's model weighs the left field more, below 0 the other way round.

Three units of inference, and what each can say:

`lateralisation_test`      over stimuli: these two models differ, on pictures in general. Given enough pictures any two
                           models do, of different hemispheres or not. In the demo set (V1v, random AlexNet) 19 of 20
                           pairs of models that share both hemispheres' voxels at random differ at p < 0.05, by 0.17,
                           where the hemispheres differ by 1.0: read the size of the difference, not its p.
`encoder_lateralisation`   over voxels, for two encoding models of one network: the hemispheres differ more than voxels
                           dealt out at random do. Neighbouring voxels share noise and receptive fields, so it is too
                           ready to find a difference where they are few and close.
`compare_paired`           over subjects: the mean preferences of their right and left models, one pair a subject. The
                           only one that speaks of brains in general.

Maps must be of kind ``hires-cam``: Grad-CAM averages receptive fields away. On the same models it gave differences of
0.007 at most, of either sign, at every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.analyses.salience import apply_stages, salience_layer
from trainables.analyses.statistics import PairedComparison, compare_paired
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.features import extract_features
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli, normalised_batch

_DEALS_AT_A_TIME = 25


@dataclass(frozen=True)
class Lateralisation:
    """Preferences of a left- and a right-hemisphere model, on the same stimuli."""

    left_model: float
    """Mean preference of the left hemisphere's model, in [-1, 1]; above 0 weighs the left visual field."""
    right_model: float
    """Of the right hemisphere's model."""
    comparison: PairedComparison
    """Right less left, paired over stimuli: above 0 is contralateral. See the module on what its p can say."""
    n_without_mass: int
    """Stimuli left out, since one of their four maps is zero everywhere."""


@dataclass(frozen=True)
class VoxelLateralisation:
    """Preferences of the encoding models of two hemispheres that read one network."""

    left_model: float
    """Mean preference of the left hemisphere's encoding model, as in `Lateralisation`."""
    right_model: float
    """Of the right hemisphere's."""
    difference: float
    """Right less left: above 0 is contralateral."""
    p_exchange: float
    """Share of exchanges of voxels between the hemispheres whose difference is at least as far from 0, the one
    observed among them."""
    exchanged_spread: float
    """Standard deviation of the differences after exchanges: what a difference by chance amounts to."""
    n_exchanges: int
    n_stimuli: int
    n_voxels: tuple[int, int]
    """Of the left and the right hemisphere."""
    layer: str
    """Readout layer of the encoding models, and layer of the maps."""


def mirrored(stimuli: Stimuli) -> Stimuli:
    """Mirror images, left and right exchanged: uint8 ``[n, height, width, 3]``, copied."""
    if isinstance(stimuli, Tensor):
        return stimuli.flip(2)
    return np.ascontiguousarray(stimuli[:, :, ::-1])


def lateralisation_index(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(left - right) / (left + right)`` of each map; the middle column of an odd width counts for neither side.

    Args:
        maps: ``[n, height, width]``, >= 0.

    Returns:
        float64 ``[n]`` in [-1, 1]; NaN for a map without mass on either side.

    Raises:
        ValueError: another shape, or a map with a negative or non-finite value.
    """
    if maps.ndim != 3 or maps.shape[2] < 2:
        raise ValueError(f"maps have shape {maps.shape}; expected [n, height, width] with two columns at least")
    if not np.all((maps >= 0) & np.isfinite(maps)):
        raise ValueError("maps hold negative or non-finite values; expected masses")
    half = maps.shape[2] // 2
    left = maps[:, :, :half].sum(axis=(1, 2), dtype=np.float64)
    right = maps[:, :, -half:].sum(axis=(1, 2), dtype=np.float64)
    mass = left + right
    return np.asarray(np.where(mass > 0, (left - right) / np.where(mass > 0, mass, 1.0), np.nan))


def side_preference(maps: NDArray[np.float32], mirror_maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the model prefers on each stimulus, without the picture's own asymmetry: half the sum of both indices.

    Args:
        maps: of the stimuli, ``[n, height, width]``.
        mirror_maps: of their mirror images, as the model gave them: not mirrored back.

    Returns:
        float64 ``[n]`` in [-1, 1], above 0 for the left visual field; NaN where either map has no mass.

    Raises:
        ValueError: different numbers of maps; see also `lateralisation_index`.
    """
    if maps.shape != mirror_maps.shape:
        raise ValueError(f"maps have shape {maps.shape} and mirror maps {mirror_maps.shape}; expected the same stimuli")
    return (lateralisation_index(maps) + lateralisation_index(mirror_maps)) / 2


def lateralisation_test(
    left_maps: tuple[NDArray[np.float32], NDArray[np.float32]],
    right_maps: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    protocol: str,
) -> Lateralisation:
    """Whether a right-hemisphere model weighs the left visual field more than a left-hemisphere model does.

    Args:
        left_maps: of the left hemisphere's model, of the stimuli and of their mirror images, see `side_preference`.
            Of kind ``hires-cam``: see `trainables.analyses.salience`.
        right_maps: of the right hemisphere's model, of the same stimuli.
        protocol: which split and which stimuli.

    Raises:
        ValueError: different numbers of maps, or no stimulus of which all four maps have mass.
    """
    left, right = side_preference(*left_maps), side_preference(*right_maps)
    if left.shape != right.shape:
        raise ValueError(f"there are maps of {len(left)} and {len(right)} stimuli; expected the same stimuli")
    usable = np.isfinite(left) & np.isfinite(right)
    if not usable.any():
        raise ValueError(f"none of {len(usable)} stimuli has mass in all four maps; expected at least one")
    comparison = compare_paired(right[usable], left[usable], protocol=f"{protocol}; pairs are stimuli")
    return Lateralisation(float(left[usable].mean()), float(right[usable].mean()), comparison, int((~usable).sum()))


def encoder_lateralisation(
    model: Backbone,
    layer: str,
    left: RidgeEncoder,
    right: RidgeEncoder,
    stimuli: Stimuli,
    rows: NDArray[np.int64],
    *,
    n_exchanges: int = 199,
    seed: int = 0,
) -> VoxelLateralisation:
    """Whether the two hemispheres' voxels weigh opposite sides, more than voxels dealt out at random.

    The maps are ``hires-cam`` at the encoders' own readout layer, where the gradient of the mean predicted response is
    the mean of the voxels' coefficients. Each voxel's coefficients are fitted by themselves, so exchanging voxels
    between hemispheres needs no new fit. The activations of all stimuli and their mirror images are held at once.

    Args:
        model: the one network whose features both encoders read, on the device that is to compute.
        layer: their readout layer; it must have rows and columns.
        left: fitted encoding model of the left hemisphere's ROI.
        right: of the right hemisphere's, fitted to the same stimuli.
        stimuli: RGB, uint8 ``[n, size, size, 3]``.
        rows: stimuli that neither encoder was fitted to.
        n_exchanges: random deals of all voxels to two groups of the hemispheres' sizes.
        seed: of their generator.

    Raises:
        ConfigError: a layer that the network lacks or that has no rows and columns.
        ValueError: no stimulus, or not one with mass in all its maps.
    """
    salience_layer(model, layer, layer)
    pair = _activations(model, layer, stimuli, rows)
    coefficients = torch.from_numpy(np.concatenate([left.coef_, right.coef_], axis=1)).to(pair[0])
    sizes = left.coef_.shape[1], right.coef_.shape[1]
    is_left = np.arange(sum(sizes)) < sizes[0]
    generator = np.random.default_rng(seed)
    deals = np.stack([is_left, *(generator.permutation(is_left) for _ in range(n_exchanges))])
    preferences = np.concatenate(
        [
            _mean_preferences(pair, coefficients, deals[start : start + _DEALS_AT_A_TIME])
            for start in range(0, len(deals), _DEALS_AT_A_TIME)
        ]
    )
    differences = preferences[:, 1] - preferences[:, 0]
    as_far = np.abs(differences) >= abs(differences[0])  # the observed deal is among them
    return VoxelLateralisation(
        left_model=float(preferences[0, 0]),
        right_model=float(preferences[0, 1]),
        difference=float(differences[0]),
        p_exchange=float(as_far.mean()),
        exchanged_spread=float(np.sqrt(np.mean(differences[1:] ** 2))) if n_exchanges else np.nan,
        n_exchanges=n_exchanges,
        n_stimuli=len(rows),
        n_voxels=sizes,
        layer=layer,
    )


def _mean_preferences(
    pair: tuple[Tensor, Tensor], coefficients: Tensor, deals: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean preference over stimuli of the voxels dealt to the left and of those dealt to the right.

    Args:
        pair: what `_activations` gives.
        coefficients: of the features, ``[n_features, n_voxels]``.
        deals: whether a voxel goes to the left, ``[n_deals, n_voxels]``.

    Returns:
        ``[n_deals, 2]``.
    """
    groups = np.stack([deals, ~deals], axis=1).reshape(-1, deals.shape[1])  # [2 n_deals, n_voxels]
    shares = torch.as_tensor(groups / groups.sum(axis=1, keepdims=True), dtype=coefficients.dtype)
    gradients = (shares.to(coefficients.device) @ coefficients.T).reshape(len(groups), *pair[0].shape[1:])
    # One product for all groups, since reading the activations takes longer than multiplying them.
    maps = [torch.einsum("nchw,gchw->gnhw", each, gradients).clamp_min(0).cpu().numpy() for each in pair]
    preferences = np.stack([side_preference(*both) for both in zip(*maps, strict=True)])  # [2 n_deals, n_stimuli]
    if np.isnan(preferences).all(axis=1).any():
        raise ValueError(f"no map of {len(pair[0])} stimuli has mass; use more stimuli or another layer")
    return np.asarray(np.nanmean(preferences, axis=1).reshape(-1, 2))


def _activations(model: Backbone, layer: str, stimuli: Stimuli, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Of the stimuli and of their mirror images, ``[n_rows, channels, rows, columns]`` each."""
    if len(rows) == 0:
        raise ValueError("there is no stimulus; expected at least one")
    device = next(model.parameters()).device
    with torch.inference_mode():
        shape = apply_stages(model, normalised_batch(stimuli, rows[:1], model.spec, device), None, layer).shape[1:]
    chosen = stimuli[torch.from_numpy(rows).to(stimuli.device)] if isinstance(stimuli, Tensor) else stimuli[rows]
    every = np.arange(len(rows))
    images, mirror = (
        extract_features(model, pixels, every, [layer])[layer].reshape(-1, *shape)
        for pixels in (chosen, mirrored(chosen))
    )
    return images, mirror
