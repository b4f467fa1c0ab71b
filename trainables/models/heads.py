"""What hangs on the backbone's last layer while it is tuned. All heads compute in float32."""

from __future__ import annotations

from torch import Tensor, nn

from trainables.errors import ConfigError

# Widths as shares of the number of voxels (arXiv 2410.06067, section 2).
_HIDDEN_SHARE = 0.8
_EMBEDDING_SHARE = 0.2


class ContrastiveHead(nn.Module):
    """Brings images and responses into one embedding space.

    One projection for each branch, to ``h = int(0.8 V)`` dimensions, then one perceptron for both, to ``z =
    int(0.2 V)``. The perceptron's batch normalisation uses each branch's own batch statistics.

    Args:
        n_features: width of the backbone at its cutoff.
        n_voxels: V, voxels of the target.

    Raises:
        ConfigError: so few voxels that the embedding would have no dimension.

    Source: arXiv 2410.06067.
    """

    def __init__(self, n_features: int, n_voxels: int) -> None:
        super().__init__()
        hidden, embedding = int(_HIDDEN_SHARE * n_voxels), int(_EMBEDDING_SHARE * n_voxels)
        if embedding < 1:
            raise ConfigError(f"the target has {n_voxels} voxels; a contrastive head needs at least 5")
        self.image_projection = nn.Linear(n_features, hidden, bias=False)
        self.response_projection = nn.Linear(n_voxels, hidden, bias=False)
        self.shared = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, embedding, bias=False),
        )

    def project_images(self, features: Tensor) -> Tensor:
        """The part of the image branch that treats every stimulus alone: ``[n, n_features] -> [n, h]``."""
        projected: Tensor = self.image_projection(features.float())
        return projected

    def forward(self, responses: Tensor, projected_images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both branches, for the whole batch: the batch normalisation depends on all of it.

        Args:
            responses: ``[n_stimuli, n_voxels]``.
            projected_images: result of `project_images`, ``[n_stimuli, h]``.

        Returns:
            Response embeddings and image embeddings, each float32 ``[n_stimuli, z]``.
        """
        return self.shared(self.response_projection(responses)), self.shared(projected_images)


class RegressionHead(nn.Module):
    """Predicts the responses from the backbone's features by one linear layer with bias.

    Args:
        n_features: width of the backbone at its cutoff.
        n_voxels: voxels of the target.
    """

    def __init__(self, n_features: int, n_voxels: int) -> None:
        super().__init__()
        self.readout = nn.Linear(n_features, n_voxels)

    def forward(self, features: Tensor) -> Tensor:
        """Predicted responses: ``[n_stimuli, n_features] -> [n_stimuli, n_voxels]``."""
        predicted: Tensor = self.readout(features.float())
        return predicted
