"""Runs merges: the experts of one method and one seed, then every algorithm and every draw of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf

from moppa.merging.merge_record import record_path, write_merge_record
from moppa.merging.merged_model import MergedModel
from moppa.merging.protocol import draw_seed, run_protocol
from moppa.merging.stage import load_stage
from moppa.record.cell import Cell
from moppa.record.merge_schema import merge_key
from moppa.record.parts import instantiate_parts
from moppa.utils import validate
from moppa.utils.atomic import atomic_write
from moppa.utils.config import instantiate
from moppa.utils.device import get_device
from moppa.utils.seeds import generator_for


@dataclass(frozen=True)
class Group:
    """The cells of one method and seed on several tasks: those that choose the scale, and those that count."""

    tune: Sequence[Cell]
    final: Sequence[Cell]

    @property
    def seed(self) -> int:
        """The seed of the experts."""
        return self.final[0].config["seed"]

    def first(self, num_tasks: int | None) -> "Group":
        """Returns the first tasks of an order that the seed decides, in the order of the suite."""
        count = len(self.final) if num_tasks is None else validate.integer("num_tasks", num_tasks, minimum=1)
        order = torch.randperm(len(self.final), generator=generator_for(self.seed, "merged tasks")).tolist()
        chosen = sorted(order[:count])
        return Group([self.tune[index] for index in chosen], [self.final[index] for index in chosen])


def run_merges(group: Group, configs: Sequence[Mapping[str, Any]], results: Path) -> Iterator[tuple[Path, bool]]:
    """Runs what has no record yet, and yields the path of every record and whether it was written now.

    Each of `configs` is a resolved config of configs/merging.yaml with one algorithm.
    """
    check_configs(configs)
    missing = []
    for config, draw, path in records_of(group, configs, results):
        if path.exists():
            yield path, False
        else:
            missing.append((config, draw, path))
    if not missing:
        return
    with TemporaryDirectory(prefix="moppa-merge-") as folder:
        parts = instantiate_parts(group.final[0])
        model = MergedModel(parts, get_device(parts.run.device))
        tune, final = (load_stage(cells, model, Path(folder)) for cells in (group.tune, group.final))
        for config, draw, path in missing:
            scale = config["merge"]["scale"]
            outcome = run_protocol(
                instantiate(OmegaConf.create(config), "merge.algorithm", _partial_=True),  # type: ignore[arg-type]
                tune,
                final,
                model,
                scales=config["scales"] if scale is None else [scale],
                head_l2=config["head_l2"],
                seed=draw_seed(group.seed, draw),
                title=f"{config['merge']['name']} of {len(final.tasks)} tasks",
            )
            if config["export"] is not None:
                write_backbone(
                    model, Path(config["export"]) / f"{path.parent.parent.name}-{path.stem}.safetensors", parts
                )
            write_merge_record(path, results, config, draw, tune, final, outcome)
            yield path, True


def records_of(
    group: Group, configs: Sequence[Mapping[str, Any]], results: Path
) -> Iterator[tuple[Mapping[str, Any], int, Path]]:
    """Yields every config and draw with the path of its record."""
    for config in configs:
        pairs = [(tuned.key, cell.key) for tuned, cell in zip(group.tune, group.final, strict=True)]
        key = merge_key(config, pairs, group.final[0].weights_sha256, group.final[0].dtype)
        for draw in range(config["merge"]["draws"]):
            yield config, draw, record_path(results, config, group.final[0], key, draw)


def check_configs(configs: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UserError` if a setting of a merge has a bad value."""
    for config in configs:
        validate.integer("merge.draws", config["merge"]["draws"], minimum=1)
        validate.number("head_l2", config["head_l2"], minimum=0.0)
        scale = config["merge"]["scale"]
        for value in config["scales"] if scale is None else [scale]:
            validate.number("scales" if scale is None else "merge.scale", value, minimum=0.0)
        instantiate(OmegaConf.create(config), "merge.algorithm", _partial_=True)  # type: ignore[arg-type]


def write_backbone(model: MergedModel, path: Path, parts: Any) -> None:
    """Writes the merged backbone, which `timm.create_model(NAME, num_classes=0, checkpoint_path=PATH)` loads."""
    tensors = model.model.state_dict()
    merged = {name: tensors[name].detach().float().cpu().contiguous() for name in model.pretrained}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(merged, temporary, metadata={"timm": parts.backbone.timm})
