"""The images of a split are shown to the model once; their predictions are kept."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from moppa.data.cache import Split
from moppa.data.images import release_pages
from moppa.peft.inject import merge
from moppa.utils import validate
from moppa.utils.device import autocast
from moppa.utils.progress import progress_bar

DEFAULT_BATCH_SIZE = {"cpu": 64, "cuda": 512}  # images; more were no faster on two cores

EpochCallback = Callable[[nn.Module, int, bool], dict[str, Tensor]]


@torch.inference_mode()
def predict(
    model: nn.Module, images: np.ndarray, *, normalize: Callable[[Tensor], Tensor], batch_size: int | None
) -> np.ndarray:
    """The predicted class (N,) int16 of images (N, S, S, 3) uint8, mapped from disk or not, or features (N, D)."""
    batches = run_batches(model, model, images, normalize=normalize, batch_size=batch_size, title="test")
    found = [logits.argmax(dim=1) for logits in batches]  # read back once: a GPU computes while the host reads on
    return torch.cat(found).cpu().numpy().astype(np.int16) if found else np.empty(0, dtype=np.int16)


def run_batches(
    model: nn.Module,
    asked: Callable[[Tensor], Tensor],
    images: np.ndarray,
    *,
    normalize: Callable[[Tensor], Tensor],
    batch_size: int | None,
    title: str,
) -> Iterator[Tensor]:
    """Yields what `asked` of the model, as it is at a test, gives for each batch of images in order, under a bar.

    Where `batch_size` is None it is the device's. Batches that a GPU has no memory for are halved until they fit.

    Raises:
        UserError: for a batch of less than one image.
    """
    device = model.get_classifier().weight.device
    batch_size = validate.integer(
        "run.eval_batch", DEFAULT_BATCH_SIZE[device.type] if batch_size is None else batch_size, minimum=1
    )
    model.eval()
    with progress_bar() as bar:
        line = bar.add_task(title, total=len(images), note="")
        start = 0
        while start < len(images):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            release_pages(images)  # a test set of gigabytes passes through, it does not pile up
            given = None
            try:
                with autocast(device):
                    given = asked(normalize(batch))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
            if given is None:  # not in the handler, which still holds what did not fit
                batch_size //= 2
                torch.cuda.empty_cache()
                continue
            yield given
            start += len(batch)
            bar.update(line, completed=start)


def evaluate_every(
    every: int | None, read: Callable[[], Split], *, normalize: Callable[[Tensor], Tensor], batch_size: int | None
) -> EpochCallback:
    """What to call after each epoch: each `every` epochs, and after the last, it counts the right answers of a split.

    It is called with the model, which it leaves as it is, the epoch from 1 on, and whether it is the last. Where
    `every` is None it reads nothing.
    """

    def watch(model: nn.Module, epoch: int, is_last: bool) -> dict[str, Tensor]:
        if every is None or not (is_last or epoch % every == 0):
            return {}
        asked = read()
        predicted = predict(merge(copy.deepcopy(model)), asked.images, normalize=normalize, batch_size=batch_size)
        return {"read/epoch": torch.tensor([epoch]), "read/correct": torch.tensor([(predicted == asked.labels).sum()])}

    return watch
