"""A linear probe: a logistic regression on features, with its regularization chosen on val200."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from moppa.backbone.preprocess import Preprocess

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # scikit-learn's C, the inverse of the L2 penalty
MAX_ITERATIONS = 300
BATCH_SIZE = 100


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Accuracies of a probe in percent.

    Args:
        val: Accuracy on val200 for each strength.
        strength: The strength with the best accuracy on val200.
        test: Accuracy on the test set with this strength.
    """

    val: dict[float, float]
    strength: float
    test: float


@torch.inference_mode()
def extract_features(model: nn.Module, images: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Returns the features that the head would classify, float32 (N, C), of images (N, S, S, 3)."""
    model.eval()
    batches = [
        model(preprocess.normalize(torch.tensor(images[first : first + BATCH_SIZE])))
        for first in range(0, len(images), BATCH_SIZE)
    ]
    return torch.cat(batches).numpy()


def flatten_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images (N, S, S, 3) as rows of pixel values in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def fit_probe(features: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> ProbeResult:
    """Chooses the strength on val200, fits on train800 and val200 together and evaluates the test set once.

    Features (N, C) and labels (N,) are given for each split: train800, val200 and test.
    """
    val = {
        strength: accuracy(strength, features["train800"], labels["train800"], features["val200"], labels["val200"])
        for strength in STRENGTHS
    }
    best = max(val, key=lambda strength: val[strength])
    x, y = (np.concatenate([arrays["train800"], arrays["val200"]]) for arrays in (features, labels))
    return ProbeResult(val=val, strength=best, test=accuracy(best, x, y, features["test"], labels["test"]))


def accuracy(strength: float, x: np.ndarray, y: np.ndarray, x_eval: np.ndarray, y_eval: np.ndarray) -> float:
    """Returns the accuracy in percent on the second pair, after a fit on the first; features are standardized."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the limit on iterations is part of the protocol
        regression.fit(x, y)
    return 100 * float(regression.score(x_eval, y_eval))
