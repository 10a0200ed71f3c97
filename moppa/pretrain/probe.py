"""What features are worth: a logistic regression on them, its strength chosen on val200, the test set read once."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from moppa.backbone.model import Preprocess

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # C, the inverse of the penalty on the weights
BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The accuracy in percent by strength on val200, the strength that was best there, and its accuracy on the test."""

    val: dict[float, float]
    strength: float
    test: float


@torch.inference_mode()
def features(model: nn.Module, images: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """What the head would read of images (N, S, S, 3), float32 (N, C)."""
    model.eval()
    pieces = [
        model(preprocess.normalize(torch.tensor(images[first : first + BATCH])))
        for first in range(0, len(images), BATCH)
    ]
    return torch.cat(pieces).numpy()


def pixels(images: np.ndarray) -> np.ndarray:
    """Images (N, S, S, 3) as rows of numbers from 0 to 1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def probe(seen: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> Probe:
    """Fits on train800 for each strength, reads val200, then fits on both with the best one and reads the test set."""
    val = {
        strength: accuracy(strength, seen["train800"], labels["train800"], seen["val200"], labels["val200"])
        for strength in STRENGTHS
    }
    best = max(val, key=lambda strength: val[strength])
    both = [np.concatenate([one["train800"], one["val200"]]) for one in (seen, labels)]
    return Probe(val=val, strength=best, test=accuracy(best, *both, seen["test"], labels["test"]))


def accuracy(strength: float, x: np.ndarray, y: np.ndarray, asked: np.ndarray, answers: np.ndarray) -> float:
    """Percent right on `asked` of a regression on (x, y), each feature standardized by x."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are part of what is measured
        regression.fit(x, y)
    return 100 * float(regression.score(asked, answers))
