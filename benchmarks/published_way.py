"""The published way of working, written anew for comparison: what the fast paths are measured and checked against.

Pictures are decoded and resized by PIL for every epoch, everything is float32 in PyTorch's default layout, the loss is
read at every step, and every ROI gets a PCA and a ridge regression of its own from scikit-learn. Not run by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

TO_NETWORK = v2.Compose(
    [
        v2.Resize((224, 224)),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


class PictureFiles(Dataset[tuple[Tensor, Tensor]]):
    """Pictures, opened when they are asked for, and the responses to them."""

    def __init__(self, files: Sequence[Path], responses: NDArray[np.float32]) -> None:
        self.files, self.responses = files, responses

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = TO_NETWORK(Image.open(self.files[index]).convert("RGB"))
        return image, torch.from_numpy(self.responses[index])


class PublishedModel(nn.Module):
    """AlexNet with its own classifier's output and the two branches of the contrastive head."""

    def __init__(self, state: dict[str, Tensor], n_voxels: int) -> None:
        super().__init__()
        hidden, embedding = int(0.8 * n_voxels), int(0.2 * n_voxels)
        self.backbone = torchvision.models.alexnet(weights=None)
        self.backbone.load_state_dict(state)
        self.images = nn.Linear(1000, hidden, bias=False)
        self.responses = nn.Linear(n_voxels, hidden, bias=False)
        self.shared = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, embedding, bias=False),
        )

    def forward(self, images: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both branches, ``[n, z]``."""
        return self.shared(self.responses(responses)), self.shared(self.images(self.backbone(images)))


def contrastive_loss(of_responses: Tensor, of_images: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each image over all responses of the batch."""
    similarity = functional.normalize(of_responses) @ functional.normalize(of_images).T / temperature
    return functional.cross_entropy(similarity.T, torch.arange(len(similarity), device=similarity.device))


def tune_epoch(
    model: PublishedModel, optimiser: torch.optim.Optimizer, loader: DataLoader[tuple[Tensor, Tensor]], device: str
) -> float:
    """One pass over the training stimuli; the mean loss."""
    model.train()
    total, seen = 0.0, 0
    for images, responses in loader:
        optimiser.zero_grad()
        of_responses, of_images = model(images.to(device), responses.to(device))
        loss = contrastive_loss(of_responses, of_images, temperature=0.3)
        loss.backward()
        optimiser.step()
        total, seen = total + loss.item() * len(images), seen + len(images)
    return total / seen


def encoding_of_an_roi(
    features: NDArray[np.float32],
    responses: NDArray[np.float32],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    n_components: int,
    alphas: Sequence[float],
) -> NDArray[np.float64]:
    """Pearson r of PCA and ridge for every penalty, mean over folds: float64 ``[n_alphas, n_voxels]``."""
    r = np.zeros((len(alphas), responses.shape[1]))
    for fitted, held_out in folds:
        pca = PCA(min(n_components, len(fitted) - 1), svd_solver="full").fit(features[fitted])
        train, test = pca.transform(features[fitted]), pca.transform(features[held_out])
        for row, alpha in enumerate(alphas):
            predicted = Ridge(alpha).fit(train, responses[fitted]).predict(test)
            r[row] += _columns_r(predicted, responses[held_out]) / len(folds)
    return r


def _columns_r(predicted: NDArray[np.float32], measured: NDArray[np.float32]) -> NDArray[np.float64]:
    a = predicted.astype(np.float64) - predicted.mean(axis=0)
    b = measured.astype(np.float64) - measured.mean(axis=0)
    r: NDArray[np.float64] = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return r
