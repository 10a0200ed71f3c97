"""The objects that a cell's config describes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from moppa.backbone.model import Backbone, Preprocess
from moppa.data.images import ImageFormat
from moppa.data.source import Source
from moppa.data.task import Protocol, Task
from moppa.data.task_data import TaskData
from moppa.record.cell import Cell
from moppa.train.checkpoint import Checkpoint
from moppa.train.feature_cache import FeatureCache
from moppa.train.loggers import SafeLogger
from moppa.train.loop import TrainingResult, train
from moppa.train.recipe import Recipe
from moppa.train.solve_head import solve_head
from moppa.utils import validate
from moppa.utils.config import instantiate
from moppa.utils.provenance import code_state
from moppa.utils.seeds import generator_for

FITS: dict[str, Callable[..., TrainingResult]] = {"steps": train, "lbfgs": solve_head}  # by `method.fit`


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a cell is made of: one object for each group of its config.

    `method` attaches to a model. `fit` trains it: in steps, or by solving for the head if the method says so.
    """

    backbone: Backbone
    task: Task
    source: Source
    method: Callable[..., None]
    fit: Callable[..., TrainingResult]
    recipe: Recipe
    protocol: Protocol
    logger: SafeLogger
    checkpoint: Checkpoint
    feature_cache: FeatureCache | None
    seed: int

    def build_model(self) -> nn.Module:
        """Returns the frozen pretrained backbone with a fresh trainable head, without the method."""
        return self.backbone.build(
            num_classes=self.task.num_classes,
            drop_path=self.recipe.drop_path,
            generator=generator_for(self.seed, "head"),
        )

    def data(self, preprocess: Preprocess) -> TaskData:
        """Returns the task's images, resized as the backbone expects them."""
        return TaskData(
            task=self.task,
            source=self.source,
            protocol=self.protocol,
            image_format=ImageFormat(preprocess.size, preprocess.interpolation),
        )


def instantiate_parts(cell: Cell) -> Parts:
    """Returns the objects of a cell.

    Raises:
        UserError: if a setting is unknown or has a bad value.
    """
    config: DictConfig = OmegaConf.create(cell.config)
    run: Any = config.run
    source: Source = instantiate(config, "data")
    fit = validate.one_of("method.fit", config.method.get("fit", "steps"), FITS)
    features = FeatureCache(
        folder=Path(source.cache).expanduser() / "features" if run.keep_features else None,
        backbone={"timm": config.backbone.timm, "weights": cell.weights_sha256},
        batch_size=run.eval_batch,
    )
    return Parts(
        backbone=instantiate(config, "backbone"),
        task=instantiate(config, "task"),
        source=source,
        method=instantiate(config, "method.attach", _partial_=True),
        fit=FITS[fit],
        recipe=instantiate(config, "train"),
        protocol=instantiate(config, "protocol"),
        logger=SafeLogger(instantiate(config, "logger")),
        checkpoint=Checkpoint(path=cell.checkpoint, epochs=run.checkpoint_epochs, code=code_state()),
        feature_cache=features if run.keep_features or fit != "steps" else None,
        seed=cell.config["seed"],
    )
