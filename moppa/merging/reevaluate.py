"""Merges the kept tensors of the experts again, and compares the predictions with those of the record of a merge."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from moppa.backbone.model import compute_weights_sha256
from moppa.merging.merged_model import MergedModel
from moppa.merging.protocol import Outcome, draw_seed, run_protocol
from moppa.merging.stage import load_stage
from moppa.record.cell import Cell, cell_from_config
from moppa.record.merge_schema import HEADS, read_merge_predictions, read_merge_record
from moppa.record.parts import instantiate_parts
from moppa.record.reevaluate import TOLERANCE, NotEvaluatedError, evaluation_config, is_same_machine
from moppa.record.schema import read_record
from moppa.record.trained import trained_path
from moppa.record.verify_merges import PROTOCOLS, find_expert
from moppa.utils.config import instantiate
from moppa.utils.device import configure_process, get_device
from moppa.utils.errors import UserError


def reevaluate_merge(path: Path, settings: Mapping[str, str]) -> str:
    """Returns how the record of a merge differs from the experts merged again, or an empty string.

    The experts are merged with the recorded scale; the other scales of the search are not tried again. `settings` and
    the number of predictions that may differ are those of `moppa.record.reevaluate.reevaluate`.

    Raises:
        NotEvaluatedError: if trained tensors of experts, the backbone's weights or images are not here.
    """
    content, _ = read_merge_record(path)
    recorded = read_merge_predictions(path, content)
    try:
        tune, final = (expert_cells(path, content, protocol, settings) for protocol in PROTOCOLS)
        outcome = merge_again(content, tune, final)
    except UserError as error:
        raise NotEvaluatedError(str(error)) from error
    is_same = is_same_machine(content, get_device(final[0].config["run"]["device"]))
    pairs = [(outcome.predictions[task][head], own[head]) for task, own in recorded.items() for head in HEADS]
    num_different, total = sum(int((a != b).sum()) for a, b in pairs), sum(len(own) for _, own in pairs)
    if num_different > (0 if is_same else int(TOLERANCE * total)):
        return f"its experts, merged again, give other predictions for {num_different} of {total} images"
    stated = content["search"]["correct"][content["search"]["scales"].index(content["scale"])]
    if is_same and outcome.search.correct != [stated]:
        return f"its experts, merged again, give other counts on val200 at scale {content['scale']}"
    return ""


def expert_cells(path: Path, content: Mapping[str, Any], protocol: str, settings: Mapping[str, str]) -> list[Cell]:
    """Returns the cells of the experts of one protocol, in the order of the suite, with paths of this machine.

    Raises:
        UserError: if a record, trained tensors or weights are not here.
    """
    results, cells = path.parents[7], []  # records/merge/SUITE/BACKBONE/METHOD/ALGORITHM/KEY/ lie between
    for task, own in sorted(content["tasks"].items(), key=lambda item: item[1]["column"]):
        record = find_expert(content, task, own["expert"][protocol], results)
        if not trained_path(record).is_file():
            raise UserError("the trained tensors of its experts were not kept")
        config = evaluation_config({**read_record(record), "device": content["device"]}, settings)
        weights_sha256 = compute_weights_sha256(instantiate(config, "backbone"))
        cells.append(replace(cell_from_config(config, weights_sha256=weights_sha256), record=record))
    return cells


def merge_again(content: Mapping[str, Any], tune: list[Cell], final: list[Cell]) -> Outcome:
    """Returns the outcome of a merge with the scale of its record."""
    device, config = content["device"], content["config"]
    configure_process(threads=device["threads"], backend=device.get("matmul_backend") or "auto", keep_memory=False)
    with TemporaryDirectory(prefix="moppa-merge-") as folder:
        parts = instantiate_parts(final[0])
        model = MergedModel(parts, get_device(parts.run.device))
        stages = [load_stage(cells, model, Path(folder)) for cells in (tune, final)]
        return run_protocol(
            instantiate(OmegaConf.create(dict(config)), "merge.algorithm", _partial_=True),
            stages[0],
            stages[1],
            model,
            scales=[content["scale"]],
            head_l2=config["head_l2"],
            seed=draw_seed(content["seed"], content["draw"]),
            title="reevaluate",
        )
