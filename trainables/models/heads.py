"""What hangs on the backbone's last layer while it is tuned. All heads compute in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from trainables.errors import ConfigError

# Widths as shares of the number of voxels (arXiv 2410.06067, section 2).
_HIDDEN_SHARE = 0.8
_EMBEDDING_SHARE = 0.2
POOLED_HIDDEN = 5741
"""Hidden width of ``pooled-const``."""


@dataclass(frozen=True)
class Widths:
    """Dimensions of a contrastive head."""

    hidden: int
    """h, what images and responses are projected to."""
    embedding: int
    """z, where they are compared."""


def own_widths(n_voxels: int) -> Widths:
    """``h = int(0.8 V)`` and ``z = int(0.2 V)``, for a subject of its own.

    Raises:
        ConfigError: so few voxels that the embedding would have no dimension.
    """
    widths = Widths(int(_HIDDEN_SHARE * n_voxels), int(_EMBEDDING_SHARE * n_voxels))
    if widths.embedding < 1:
        raise ConfigError(f"the target has {n_voxels} voxels; a contrastive head needs at least 5")
    return widths


def pooled_widths(method: str, n_voxels: Sequence[int]) -> Widths:
    """``h``: mean V over subjects, rounded down (``pooled-avg``), or 5741 (``pooled-const``); ``z = int(0.25 h)``.

    Args:
        method: ``pooled-avg`` or ``pooled-const``.
        n_voxels: V of every subject.

    Raises:
        ConfigError: so few voxels that the embedding would have no dimension.
    """
    hidden = POOLED_HIDDEN if method == "pooled-const" else sum(n_voxels) // len(n_voxels)
    if hidden < 4:
        raise ConfigError(f"the subjects have {sum(n_voxels)} voxels together; a pooled head needs a mean of 4")
    return Widths(hidden, hidden // 4)


class ContrastiveHead(nn.Module):
    """Brings images and responses into one embedding space.

    One projection for each branch, to h dimensions, then one perceptron for both, to z. The perceptron's batch
    normalisation uses each branch's own batch statistics.

    Args:
        n_features: width of the backbone at its cutoff.
        n_voxels: V, voxels of the target.
        widths: h and z; `own_widths` by default.
        with_regression: adds a `RegressionHead` beside, for an objective that has a squared error too.

    Raises:
        ConfigError: so few voxels that the embedding would have no dimension.

    Source: arXiv 2410.06067.
    """

    def __init__(
        self, n_features: int, n_voxels: int, widths: Widths | None = None, *, with_regression: bool = False
    ) -> None:
        super().__init__()
        widths = widths or own_widths(n_voxels)
        self.image_projection = nn.Linear(n_features, widths.hidden, bias=False)
        self.response_projection = nn.Linear(n_voxels, widths.hidden, bias=False)
        self.shared = _perceptron(widths)
        self.regression = RegressionHead(n_features, n_voxels) if with_regression else None

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


class PooledHead(nn.Module):
    """One embedding space for the images and the responses of several subjects.

    Image projection and perceptron are shared; each subject has a response projection of its own. The running
    statistics of the batch normalisation are those of all subjects.

    Args:
        n_features: width of the backbone at its cutoff.
        n_voxels: V of every subject.
        widths: h and z, see `pooled_widths`.
        with_regression: adds a `RegressionHead` for each subject.

    Source: arXiv 2410.06067.
    """

    def __init__(
        self, n_features: int, n_voxels: Sequence[int], widths: Widths, *, with_regression: bool = False
    ) -> None:
        super().__init__()
        self.image_projection = nn.Linear(n_features, widths.hidden, bias=False)
        self.response_projections = nn.ModuleList(nn.Linear(n, widths.hidden, bias=False) for n in n_voxels)
        self.shared = _perceptron(widths)
        self.regressions = nn.ModuleList(RegressionHead(n_features, n) for n in n_voxels if with_regression)

    def project_images(self, features: Tensor) -> Tensor:
        """As `ContrastiveHead.project_images`."""
        projected: Tensor = self.image_projection(features.float())
        return projected

    def forward(self, responses: Tensor, projected_images: Tensor, subject: int) -> tuple[Tensor, Tensor]:
        """As `ContrastiveHead.forward`, for a batch of one subject.

        Args:
            responses: ``[n_stimuli, n_voxels of the subject]``.
            projected_images: ``[n_stimuli, h]``.
            subject: position among the subjects.
        """
        return self.shared(self.response_projections[subject](responses)), self.shared(projected_images)


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


def saved_contrastive_head(state: Mapping[str, Tensor], subject: int = 0) -> ContrastiveHead:
    """The contrastive head of one subject, from the saved head of a contrastive or a pooled model.

    Args:
        state: `trainables.models.tuned_model.TunedModel.head`; a regression beside the embedding is left out.
        subject: position among the subjects that the model was tuned for.

    Returns:
        The head on the CPU, in evaluation mode.

    Raises:
        ConfigError: the state has no contrastive head of that subject.
    """
    names = {f"response_projections.{subject}.weight"} | ({"response_projection.weight"} if subject == 0 else set())
    found = sorted(names & set(state))
    if not found:
        raise ConfigError(
            f"the saved head has no response projection of subject number {subject}; choose a model that was tuned by "
            "a contrastive method for that subject"
        )
    own = {name: tensor for name, tensor in state.items() if name.startswith(("image_projection.", "shared."))}
    own["response_projection.weight"] = state[found[0]]
    hidden, n_features = own["image_projection.weight"].shape
    widths = Widths(hidden, len(own["shared.6.weight"]))
    head = ContrastiveHead(n_features, own["response_projection.weight"].shape[1], widths)
    head.load_state_dict(own)
    return head.eval()


def _perceptron(widths: Widths) -> nn.Sequential:
    hidden = widths.hidden
    return nn.Sequential(
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, widths.embedding, bias=False),
    )
