"""The objects that a cell's config describes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from moppa.backbone.efficient_blocks import skip_unused
from moppa.backbone.model import Backbone, Preprocess
from moppa.backbone.packed_linear import pack
from moppa.backbone.precision import to_precision
from moppa.backbone.quantize import BITS, QuantizedLayer, check_frozen, quantize
from moppa.data.images import ImageFormat
from moppa.data.source import Source
from moppa.data.split import Split
from moppa.data.task import Protocol, Task
from moppa.data.task_data import TaskData
from moppa.peft.method import Examples, FinishedTensors, attach_method
from moppa.record.cell import Cell
from moppa.record.finished import finished_tensors
from moppa.train.augmentation import worker_count
from moppa.train.batches import example_batches
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import Evaluator
from moppa.train.feature_cache import FeatureCache, Inputs, inputs_of
from moppa.train.loggers import SafeLogger
from moppa.train.loop import EpochCallback, TrainingResult, train
from moppa.train.recipe import Recipe
from moppa.train.solve_head import check_solvable, solve_head
from moppa.utils import validate
from moppa.utils.config import instantiate
from moppa.utils.gpu import device_type, precision_name
from moppa.utils.paths import user_path
from moppa.utils.provenance import code_state
from moppa.utils.seeds import generator_for

FITS: dict[str, Callable[..., TrainingResult]] = {"steps": train, "lbfgs": solve_head}  # by `method.fit`


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a cell is made of: one object for each group of its config.

    `method` attaches to a model, and may start from `finished` cells. `fit` trains it: in steps, or by solving for
    the head if the method says so. `run` is the config of how the cell is run.
    """

    backbone: Backbone
    task: Task
    source: Source
    method: Callable[..., None]
    finished: FinishedTensors
    fit: Callable[..., TrainingResult]
    recipe: Recipe
    protocol: Protocol
    logger: SafeLogger
    checkpoint: Checkpoint
    feature_cache: FeatureCache | None
    seed: int
    run: Any

    def build_model(self) -> nn.Module:
        """Returns the frozen backbone with a fresh trainable head, on the CPU, without the method."""
        return self.frozen(torch.device("cpu")).model

    def frozen(self, device: torch.device) -> "Attached":
        """Returns the same on a device, with the images that it takes. `backbone.quantize` has rounded its weights."""
        model = self.backbone.build(
            num_classes=self.task.num_classes,
            drop_path=self.recipe.drop_path,
            generator=generator_for(self.seed, "head"),
        ).to(device)
        preprocess = self.recipe.preprocess(self.backbone.preprocess(model))
        data = self.data(preprocess)

        def examples() -> Iterator[tuple[Tensor, Tensor]]:
            return example_batches(data.load(data.train_split), self.recipe, preprocess, device)

        quantized: list[QuantizedLayer] = []
        if self.backbone.quantize is not None:
            quantized = quantize(
                model,
                widths=BITS[self.backbone.quantize],
                mean_bits=self.backbone.quantize_bits,
                rounds=self.backbone.quantize_rounds,
                examples=examples,
            )
        return Attached(model=model, preprocess=preprocess, data=data, examples=examples, quantized=quantized)

    def data(self, preprocess: Preprocess) -> TaskData:
        """Returns the task's images, resized as the backbone expects them."""
        return TaskData(
            task=self.task,
            source=self.source,
            protocol=self.protocol,
            image_format=ImageFormat(preprocess.size, preprocess.interpolation),
            seed=self.seed,
        )

    def attached(self, device: torch.device) -> "Attached":
        """Returns the backbone with a fresh head and the method attached, on a device, and the images that it takes.

        Raises:
            UserError: if `method.fit` solves for the head and the method trains more than a linear head, or if the
                method trains weights that `backbone.quantize` has rounded.
        """
        frozen = self.frozen(device)
        model = attach_method(
            frozen.model,
            self.method,
            generator=generator_for(self.seed, "method"),
            examples=frozen.examples,
            finished=self.finished,
        )
        check_frozen(frozen.quantized, str(self.backbone.quantize))
        if self.fit is FITS["lbfgs"]:
            check_solvable(model, self.recipe)
        return replace(frozen, model=model.to(device))

    def prepared(self, device: torch.device) -> "Attached":
        """Returns the same as `attached`, with `run.skip_unused` and `run.precision` applied to the model."""
        return self.ready(self.attached(device), device)

    def ready(self, attached: "Attached", device: torch.device) -> "Attached":
        """Returns an attached model with `run.skip_unused` and `run.precision` applied to it, in place.

        Quantized layers that the method leaves alone keep their integers only.
        """
        skip_unused(attached.model, self.run.skip_unused)
        pack(attached.model, attached.quantized)
        to_precision(attached.model, precision_name(self.run.precision, device.type))
        return replace(attached, quantized=())  # which hold the weights that are packed now

    def inputs(self, attached: "Attached") -> Inputs:
        """Returns what is trained and evaluated: the model and images, or the head and cached features."""
        num_workers = worker_count(self.run.get("augment_workers", "auto"), device_type(self.run.device))
        augment = self.recipe.augmenter(attached.preprocess, seed=self.seed, num_workers=num_workers)
        return inputs_of(attached.model, attached.data, attached.preprocess, self.feature_cache, augment)

    def evaluator(self, inputs: Inputs) -> Evaluator:
        """Returns how the inputs are evaluated."""
        run = self.run
        return Evaluator(normalize=inputs.normalize, batch_size=run.eval_batch, precision=run.precision)

    def train(self, inputs: Inputs, split: Split, *, on_epoch: EpochCallback) -> TrainingResult:
        """Trains the model of the inputs on a split."""
        return self.fit(
            inputs.model,
            split,
            recipe=self.recipe,
            normalize=inputs.normalize,
            seed=self.seed,
            checkpoint=self.checkpoint,
            logger=self.logger,
            on_epoch=on_epoch,
            step=self.run.step,
            precision=self.run.precision,
            augment=inputs.augment,
        )


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A model, usually with a method attached, how its images are preprocessed, and the images.

    `examples` returns batches (images, labels) of the training split, and `quantized` are the layers that
    `backbone.quantize` has rounded.
    """

    model: nn.Module
    preprocess: Preprocess
    data: TaskData
    examples: Examples
    quantized: Sequence[QuantizedLayer]


def instantiate_parts(cell: Cell) -> Parts:
    """Returns the objects of a cell.

    Raises:
        UserError: if a setting is unknown or has a bad value.
    """
    config: DictConfig = OmegaConf.create(cell.config)
    run: Any = config.run
    source: Source = instantiate(config, "data")
    fit = validate.one_of("method.fit", config.method.get("fit", "steps"), FITS)
    backbone: Backbone = instantiate(config, "backbone")
    quantized = {} if backbone.quantize is None else {"quantize": backbone.quantize}
    keeps_features = run.keep_features and not backbone.is_calibrated  # a calibrated backbone is that of one task
    features = FeatureCache(
        folder=user_path(source.cache) / "features" if keeps_features else None,
        backbone={"timm": config.backbone.timm, "weights": cell.weights_sha256, **quantized},
        batch_size=run.eval_batch,
        precision=run.precision,
    )
    return Parts(
        backbone=backbone,
        task=instantiate(config, "task"),
        source=source,
        method=instantiate(config, "method.attach", _partial_=True),
        finished=partial(finished_tensors, config=cell.config, weights_sha256=cell.weights_sha256),
        fit=FITS[fit],
        recipe=instantiate(config, "train"),
        protocol=instantiate(config, "protocol"),
        logger=SafeLogger(instantiate(config, "logger")),
        checkpoint=Checkpoint(path=cell.checkpoint, epochs=run.checkpoint_epochs, code=code_state()),
        feature_cache=features if run.keep_features or fit != "steps" else None,
        seed=cell.config["seed"],
        run=run,
    )
