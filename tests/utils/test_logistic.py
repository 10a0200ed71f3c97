"""Logistic regression is solved to the optimum that scikit-learn finds."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from moppa.utils.logistic import TOLERANCE, fit_logistic


def features_and_labels(num=120, dim=12, num_classes=4):
    """Correlated features of different scales, one of them constant, and noisy labels."""
    random = np.random.default_rng(0)
    features = random.normal(size=(num, dim)) @ random.normal(size=(dim, dim)) * np.geomspace(0.01, 100, dim) + 5
    features[:, 3] = 0.1
    labels = (features @ random.normal(size=dim) > 0) + 2 * (random.random(num) > 0.6)
    assert labels.max() == num_classes - 1
    return features.astype(np.float32), labels


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_the_solution_is_the_optimum_that_scikit_learn_finds(l2):
    features, labels = features_and_labels()
    fit = fit_logistic(torch.from_numpy(features), torch.from_numpy(labels), num_classes=4, l2=l2)
    standardized = StandardScaler().fit_transform(features.astype(np.float64))
    reference = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-7, max_iter=10_000).fit(standardized, labels)
    logits = features.astype(np.float64) @ fit.weight.numpy().T + fit.bias.numpy()
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(standardized), atol=1e-3)
    assert fit.has_converged
    assert fit.gradient <= TOLERANCE
    assert fit.loss == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def test_the_same_features_give_the_same_bytes():
    features, labels = map(torch.from_numpy, features_and_labels())
    first, second = (fit_logistic(features, labels, num_classes=5, l2=0.01) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.dtype == torch.float64


def test_a_constant_feature_has_no_weight():
    features, labels = map(torch.from_numpy, features_and_labels())
    assert fit_logistic(features, labels, num_classes=4, l2=0.01).weight[:, 3].abs().max() < 1e-12


def test_separable_classes_without_a_penalty_do_not_converge(monkeypatch):
    monkeypatch.setattr("moppa.utils.logistic.MAX_ITERATIONS", 5)
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert not fit_logistic(features, torch.tensor([0, 0, 1, 1]), num_classes=2, l2=0.0).has_converged
