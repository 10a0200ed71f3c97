"""The numbers of parameters that a record's config gives, counted on a model."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from moppa.peft.collect import count_parameters
from moppa.peft.method import attach_method, ignore_records
from moppa.record.check_values import NeedsImagesError, no_examples
from moppa.record.schema import identity_of
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for


def find_other_count(record: Mapping[str, Any]) -> str:
    """Returns how a record's number of trained or of backbone parameters differs from its config's, or an empty string.

    A method whose size depends on the training images is not counted.
    """
    config = record["config"]
    parts = {name: config[name] for name in ("backbone", "method")}
    parts["backbone"] = {**parts["backbone"], "weights": "random"}
    counts = recount(json.dumps(parts, sort_keys=True), config["task"]["num_classes"])
    for name, value in (counts or {}).items():
        recorded = record.get(name, value)  # old records have no backbone_params
        if recorded != value:
            return f"its {name} is {describe(recorded)}, its config gives {describe(value)}"
    return ""


def describe(count: Any) -> str:
    """Returns a number, or the numbers of a dict by name, with separators."""
    return f"{count:,}" if isinstance(count, int) else ", ".join(f"{count[name]:,} {name}" for name in sorted(count))


@lru_cache
def recount(parts: str, num_classes: int) -> dict[str, Any] | None:
    """Returns the trained parameters of method and head, and the backbone's, for a backbone and a method as JSON."""
    config: Any = OmegaConf.create(json.loads(parts))
    try:
        method = instantiate(config, "method.attach", _partial_=True)
        backbone = instantiate(config, "backbone")
        model = backbone.build(num_classes=num_classes, drop_path=0.0, generator=generator_for(0, "head"))
        generator = generator_for(0, "method")
        attach_method(model, method, generator=generator, examples=no_examples, finished=ignore_records)
    except NeedsImagesError:
        return None
    except UserError as error:
        raise UserError(f"its model cannot be built ({error}): {identity_of(json.loads(parts))}") from error
    return {**count_parameters(model), "backbone_params": model.backbone_params}
