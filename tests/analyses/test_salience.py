"""Maps against explicit gradients per image, closed forms and PIL's enlargement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import StandardScaler
from torch import nn

from tests.synthetic import planted_data, tiny_weights
from trainables.analyses.salience import (
    GRAD_CAM,
    HIRES_CAM,
    KINDS,
    Score,
    class_score,
    combine,
    response_score,
    salience_layer,
    salience_maps,
)
from trainables.data.responses import TargetData
from trainables.encoding.features import extract_features
from trainables.errors import ConfigError
from trainables.evaluations.classification import classify, split_rows
from trainables.evaluations.encoding import fit_encoder, predict_responses
from trainables.models.backbone import Backbone, backbone_spec, build_backbone
from trainables.models.images import normalised_batch

ROWS = np.array([5, 3, 17, 8, 60])


@pytest.fixture(scope="module")
def data() -> TargetData:
    return planted_data(n_train=60)


def _tiny(cutoff: str = "output") -> Backbone:
    return build_backbone("tiny", tiny_weights().state, cutoff)


def _labels(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 20, n)


def _enlarged(coarse: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR))


def _naive_class_map(model: Backbone, image: torch.Tensor, label: int, layer: str, kind: str) -> np.ndarray:
    """One image at a time, the activation caught by a hook, every product written out."""
    caught: list[torch.Tensor] = []

    def catch(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        caught.append(output.clone())
        return caught[0]

    hook = dict(model.stages)[layer].register_forward_hook(catch)
    logits = model(image[None])
    hook.remove()
    gradient = torch.autograd.grad(logits[0, label], caught[0])[0][0].numpy()
    activation = caught[0][0].detach().numpy()
    total = np.zeros((activation.shape[1], activation.shape[2]))
    for channel in range(len(activation)):
        for y in range(total.shape[0]):
            for x in range(total.shape[1]):
                weight = gradient[channel].mean() if kind == GRAD_CAM else gradient[channel, y, x]
                total[y, x] += weight * activation[channel, y, x]
    return np.maximum(total, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["features.1", "features.3"])
def test_class_maps_are_those_of_one_image_at_a_time(data: TargetData, kind: str, layer: str) -> None:
    model, stimuli = _tiny().train(), data.train.stimuli
    labels = _labels(len(stimuli))
    found = salience_maps(model, class_score(model, labels), stimuli, ROWS, layer=layer, kind=kind, batch_size=2)
    assert (found.layer, found.kind, found.maps.shape) == (layer, kind, (5, 16, 16))
    assert found.maps.dtype == np.float32
    assert model.training, "left as it came"
    model.eval()
    images = normalised_batch(stimuli, ROWS, model.spec, torch.device("cpu"))
    for image, row, map_ in zip(images, ROWS, found.maps, strict=True):
        expected = _enlarged(_naive_class_map(model, image, labels[row], layer, kind))
        np.testing.assert_allclose(map_, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert found.maps.max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_score_at_the_layer_itself_has_a_closed_form(data: TargetData, kind: str) -> None:
    model = _tiny("features.1")
    encoder = fit_encoder(model, "features.1", data.train)
    found = salience_maps(model, response_score(encoder, "features.1"), data.train.stimuli, ROWS, kind=kind)
    activation = extract_features(model, data.train.stimuli, ROWS, ["features.1"])["features.1"].numpy()
    activation = activation.reshape(len(ROWS), 8, 36).astype(float)
    weights = encoder.coef_.mean(axis=1).reshape(8, 36).astype(float)
    if kind == GRAD_CAM:
        weights = np.repeat(weights.mean(axis=1)[:, None], 36, axis=1)
    coarse = np.maximum((activation * weights).sum(axis=1), 0).reshape(-1, 6, 6)
    for map_, expected in zip(found.maps, coarse, strict=True):
        np.testing.assert_allclose(map_, _enlarged(expected), rtol=1e-3, atol=1e-4 * coarse.max())


def test_a_classifier_gives_classes_to_a_network_that_is_cut(data: TargetData) -> None:
    """Its map is that of the network with the classifier as its last layer, written out with autograd."""
    model, stimuli = _tiny("features.3"), data.train.stimuli
    labels = _labels(len(stimuli)) % 4
    scores = classify(model, stimuli, labels, n_classes=5, layer="classifier.2")
    classifier = scores.classifier
    assert (scores.layer, classifier.layer) == ("features.3", "features.3"), "the deepest that there is"
    found = salience_maps(model, class_score(model, labels, classifier), stimuli, ROWS, layer="features.1")
    features = extract_features(model, stimuli, np.arange(len(stimuli)), ["features.3"])["features.3"]
    probabilities = torch.softmax(classifier.logits(features), dim=1).numpy()
    np.testing.assert_allclose(probabilities[scores.test_rows], scores.probabilities, atol=1e-5)
    weight, intercept = classifier.fit.weights[:, :4], classifier.fit.intercepts[:4]
    fitted, _ = split_rows(len(stimuli))
    last = nn.Linear(12 * 16, 4)
    scaler = StandardScaler().fit(features[fitted].numpy())
    scale = torch.from_numpy(scaler.scale_).float()
    last.weight.data = (weight / scale[:, None]).T
    last.bias.data = intercept - torch.from_numpy(scaler.mean_).float() @ (weight / scale[:, None])
    images = normalised_batch(stimuli, ROWS, model.spec, torch.device("cpu"))
    for image, row, map_ in zip(images, ROWS, found.maps, strict=True):
        activation = dict(model.stages)["features.1"](dict(model.stages)["features.0"](image[None])).detach()
        leaf = activation.requires_grad_()
        deeper = torch.relu(dict(model.stages)["features.2"](leaf)).flatten(1)
        (gradient,) = torch.autograd.grad(last(deeper)[0, labels[row]], leaf)
        coarse = (gradient[0].mean(dim=(1, 2), keepdim=True) * leaf[0]).sum(dim=0).clamp_min(0).detach().numpy()
        np.testing.assert_allclose(map_, _enlarged(coarse), rtol=1e-3, atol=1e-4 * max(coarse.max(), 1e-6))
    assert found.maps.max() > 0
    with pytest.raises(ConfigError, match="the classifier has classes 0 to 4"):
        class_score(model, labels + 2, classifier)


def test_hires_cam_keeps_places_that_grad_cam_averages_away() -> None:
    """A single weight in one corner: hires-cam sees the corner, Grad-CAM wherever the channel is active."""
    activations = torch.ones(1, 2, 4, 4)
    gradients = torch.zeros(1, 2, 4, 4)
    gradients[0, 0, 1, 3] = 8.0
    hires, grad = (combine(activations, gradients, kind)[0] for kind in (HIRES_CAM, GRAD_CAM))
    assert hires[1, 3] == hires.sum() == 8.0
    assert torch.equal(grad, torch.full((4, 4), 0.5))


def test_response_score_is_the_mean_predicted_response(data: TargetData) -> None:
    model = _tiny("features.3")
    encoder = fit_encoder(model, "features.3", data.train)
    features = extract_features(model, data.train.stimuli, ROWS, ["features.3"])["features.3"]
    values = response_score(encoder, "features.3").values(features, ROWS)
    expected = predict_responses(model, "features.3", encoder, data.train.stimuli)[ROWS].mean(axis=1)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_any_differentiable_score_will_do(data: TargetData) -> None:
    model = _tiny()
    squares = Score("features.3", lambda features, rows: (features**2).sum(dim=1) / 2)
    found = salience_maps(model, squares, data.train.stimuli, ROWS, kind=HIRES_CAM)
    activation = extract_features(model, data.train.stimuli, ROWS, ["features.3"])["features.3"].numpy()
    coarse = (activation**2).reshape(len(ROWS), 12, 4, 4).sum(axis=1)
    for map_, expected in zip(found.maps, coarse, strict=True):
        np.testing.assert_allclose(map_, _enlarged(expected), rtol=1e-4, atol=1e-5)


def test_the_layer_is_the_deepest_that_the_score_reads() -> None:
    assert salience_layer(_tiny(), "classifier.2") == "features.3"
    assert salience_layer(_tiny(), "features.1") == "features.1"
    assert salience_layer(_tiny("features.1"), "features.1") == "features.1"
    assert salience_layer(_tiny(), "classifier.2", "features.1") == "features.1"
    for score_layer, layer in (("features.1", "features.3"), ("classifier.2", "classifier.2"), ("features.3", "conv")):
        with pytest.raises(ConfigError, match="can be traced back to"):
            salience_layer(_tiny(), score_layer, layer)
    with pytest.raises(ConfigError, match="cut at features.1"):
        salience_layer(_tiny("features.1"), "features.3")


def test_alexnet_is_read_at_its_last_pooling() -> None:
    with torch.device("meta"):
        model = Backbone(backbone_spec("alexnet"), "output")
        cut = Backbone(backbone_spec("alexnet"), "features.7")
    assert salience_layer(model, "classifier.6") == "features.12"
    assert salience_layer(cut, "features.7") == "features.7"


def test_refusals(data: TargetData) -> None:
    labels = _labels(len(data.train.stimuli))
    with pytest.raises(ConfigError, match="no class outputs; give a classifier"):
        class_score(_tiny("features.3"), labels)
    with pytest.raises(ConfigError, match="classes 0 to 19"):
        class_score(_tiny(), labels + 1)
    with pytest.raises(ConfigError, match="'cam'"):
        salience_maps(_tiny(), class_score(_tiny(), labels), data.train.stimuli, ROWS, kind="cam")
