"""The images of a split are shown to the model once; their predictions are kept."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from moppa import check
from moppa.data.images import forget
from moppa.machine import arithmetic
from moppa.progress import progress_bar


@torch.inference_mode()
def predict(
    model: nn.Module, images: np.ndarray, *, normalise: Callable[[Tensor], Tensor], batch_size: int
) -> np.ndarray:
    """The predicted class (N,) int16 of images (N, S, S, 3) uint8, mapped from disk or not, or features (N, D)."""
    check.whole("run.eval_batch", batch_size, least=1)
    device = model.get_classifier().weight.device
    predicted = np.empty(len(images), dtype=np.int16)
    model.eval()
    with progress_bar() as bar:
        line = bar.add_task("test", total=len(images), note="")
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            forget(images)  # a test set of gigabytes passes through, it does not pile up
            with arithmetic(device):
                logits = model(normalise(batch))
            predicted[start : start + len(batch)] = logits.argmax(dim=1).cpu().numpy()
            bar.update(line, completed=start + len(batch))
    return predicted
