"""Evaluation: the images of a split pass through the model once, in batches."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moppa.data.images import release_pages
from moppa.data.split import Split
from moppa.peft.inject import merge
from moppa.train.loop import EpochCallback
from moppa.utils import validate
from moppa.utils.device import forward_context
from moppa.utils.gpu import precision_name
from moppa.utils.progress import progress_bar

DEFAULT_BATCH_SIZE = {"cpu": 64, "cuda": 512}  # images; on two CPU cores larger batches were no faster


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """How images are evaluated: normalization, batch size (None for the device's default) and `run.precision`."""

    normalize: Callable[[Tensor], Tensor]
    batch_size: int | None
    precision: str = "auto"

    @torch.inference_mode()
    def predict(self, model: nn.Module, images: np.ndarray, *, title: str = "evaluate") -> np.ndarray:
        """Returns the predicted classes (N,) int16 of images (N, S, S, 3) uint8 or features (N, D)."""
        return self.evaluate(model, images, title=title, keep_logits=False)[0]

    @torch.inference_mode()
    def evaluate(
        self, model: Any, images: np.ndarray, *, title: str, keep_logits: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the predicted classes (N,) int16 and, if they are kept, the logits (N, classes) float16."""
        device = model.get_classifier().weight.device
        # allocated once: small tensors that outlive each batch would leave holes that the next batch does not fit into
        predicted = torch.empty(len(images), dtype=torch.int16, device=device)
        kept, start = None, 0
        for logits in self.run(model, model, images, title=title):
            batch = slice(start, start + len(logits))
            predicted[batch] = logits.argmax(dim=1)
            if keep_logits:
                kept = kept if kept is not None else logits.new_empty(len(images), logits.shape[1], dtype=torch.half)
                kept[batch] = logits
            start = batch.stop
        # copied to the host once, so that a GPU computes while the host reads images
        return predicted.cpu().numpy(), kept.cpu().numpy() if kept is not None else None

    def run(
        self, model: Any, forward: Callable[[Tensor], Tensor], images: np.ndarray, *, title: str | None
    ) -> Iterator[Tensor]:
        """Runs `forward` over `images` in batches, with `model` in eval mode, and yields its outputs.

        A progress bar shows `title`; without one there is no bar. If a GPU runs out of memory, the batch size is halved
        until a batch fits.

        Raises:
            SettingError: if the batch size is below 1.
        """
        device = model.get_classifier().weight.device
        precision = precision_name(self.precision, device.type)
        batch_size = DEFAULT_BATCH_SIZE[device.type] if self.batch_size is None else self.batch_size
        validate.integer("run.eval_batch", batch_size, minimum=1)
        model.eval()
        with progress_bar(is_shown=title is not None) as bar:
            line = bar.add_task(title or "", total=len(images), note="")
            start = 0
            while start < len(images):
                batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
                release_pages(images)
                outputs = None
                try:
                    with forward_context(device, precision):
                        outputs = forward(self.normalize(batch))
                except torch.OutOfMemoryError:
                    if batch_size == 1:
                        raise
                if outputs is None:  # outside of the handler, which still holds the tensors that did not fit
                    batch_size //= 2
                    torch.cuda.empty_cache()
                    continue
                yield outputs
                start += len(batch)
                bar.update(line, completed=start)

    def every(self, num_epochs: int | None, load: Callable[[], Split]) -> EpochCallback:
        """Returns a callback that evaluates a copy of the model every `num_epochs` epochs and after the last.

        It returns the epoch and the number of correct predictions. With `num_epochs` None it evaluates nothing.
        """

        def on_epoch(model: nn.Module, epoch: int, is_last: bool) -> dict[str, Tensor]:
            if num_epochs is None or not (is_last or epoch % num_epochs == 0):
                return {}
            split = load()
            predicted = self.predict(merge(copy.deepcopy(model)), split.images)
            num_correct = int((predicted == split.labels).sum())
            return {"evaluation/epoch": torch.tensor([epoch]), "evaluation/correct": torch.tensor([num_correct])}

        return on_epoch
