"""The model card of a finished cell: what it is, how good, on which images, from which weights, under which license."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import yaml

from moppa.export.facts import timm_settings
from moppa.record.integrity import read_predictions
from moppa.report.estimate import LEVEL, Correctness, estimate_accuracy
from moppa.utils.errors import UserError

HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0")
PROTOCOLS = {
    "final": "trained on all training images; the test set was evaluated once, after the last step",
    "tune": "trained on 800 images and evaluated on the 200 validation images: not a result on the test set",
    "best_on_test": "a diagnostic: the test set was evaluated many times during training",
}
USE = {
    "timm": """Plain timm loads `model.safetensors`, with the method merged into the weights:

```python
import timm

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
```""",
    "peft": """HF peft loads the adapter over timm's backbone:

```python
import timm
from peft import PeftModel

backbone = timm.create_model("{timm}", pretrained=True, {arguments})
model = PeftModel.from_pretrained(backbone, "{repository}").eval()
```""",
    "onnx": "`model.onnx` maps normalized `images` (batch, 3, {size}, {size}) to `logits`.",
}


def render_card(record: Mapping[str, Any], path: Path, repository: str, formats: Sequence[str]) -> str:
    """Returns the README.md of a repository with the exported files of a record at `path`.

    Raises:
        UserError: if the record has no predictions, or they contradict it.
    """
    config, weights = record["config"], record["weights"]
    accuracy = describe_accuracy(record, path)
    image, split = record["preprocess"], record["split"]
    settings = timm_settings(record)
    values = {
        "repository": repository,
        "timm": config["backbone"]["timm"],
        "size": config["backbone"]["image_size"],
        "arguments": ", ".join(f"{name}={value!r}" for name, value in settings.items()),
    }
    rows = {
        "task": f"{record['task']} of {record['suite']}, version {record['task_version']}",
        "accuracy": accuracy,
        "protocol": f"{record['protocol']}: {PROTOCOLS.get(record['protocol'], 'see the config')}",
        "split check": f"{split['verdict']}; test split: {split.get('test', 'no digest')}; images: {split['lineage']}",
        "images": f"{image['size']} x {image['size']} px, {image['interpolation']}, mean {image['mean']}, "
        f"std {image['std']}",
        "method": f"{record['method']}, {record['trainable_params']:,} trained parameters without the head",
        "seed": record["seed"],
        "backbone": f"{config['backbone']['timm']}, weights {weights['name']}, sha256 `{weights['sha256']}`",
        "license of the backbone": license_of(config["backbone"]["timm"]) or "timm states none",
        "commit": describe_commit(record["git"]),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items())),
    }
    table = "\n".join(f"| {name} | {escape(value)} |" for name, value in rows.items())
    uses = "\n\n".join(USE[name].format(**values) for name in formats)
    return f"""---
{front_matter(record, formats).rstrip()}
---

# {record["method"]} on {record["task"]}, {config["backbone"]["timm"]}

| | |
| --- | --- |
{table}

## Use

{uses}

## Check

The record, its predictions and the trained tensors are in `records/` and `checkpoints/`:

    hf download {repository} --local-dir model
    moppa verify model --reevaluate

## Config

```yaml
{yaml.safe_dump(config, sort_keys=True, allow_unicode=True).rstrip()}
```
"""


def describe_accuracy(record: Mapping[str, Any], path: Path) -> str:
    """Returns the accuracy with its interval over test images.

    Raises:
        UserError: if the record has no predictions, or they contradict it.
    """
    arrays = read_predictions(path, record)
    if arrays is None:
        raise UserError(f"{path} has no predictions (.npz) beside it: run the cell again")
    predicted, label = arrays
    interval = estimate_accuracy(Correctness.from_seeds([predicted == label])).interval()
    return (
        f"{float(interval.value):.1f} % ({record['correct']} of {record['total']} images of "
        f"{record['config']['protocol']['evaluate']}; {LEVEL:.0%} interval over the images, of this seed: "
        f"{interval.low:.1f} to {interval.high:.1f} %)"
    )


def describe_commit(git: Mapping[str, Any]) -> str:
    """Returns the commit, and whether the code differed from it."""
    return f"{git['commit'] or 'unknown'}{' with local changes' if git['dirty'] else ''}"


def license_of(timm_name: str) -> str | None:
    """Returns the license that timm states for a backbone's weights."""
    return timm.get_pretrained_cfg_value(timm_name, "license")


def front_matter(record: Mapping[str, Any], formats: Sequence[str]) -> str:
    """Returns the metadata that the hub reads, as YAML."""
    name = license_of(record["config"]["backbone"]["timm"])
    hub_license = name if name in HUB_LICENSES else "other"
    hub_name = timm.get_pretrained_cfg_value(record["config"]["backbone"]["timm"], "hf_hub_id")
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": f"{record['task']} ({record['suite']})", "type": record["task"]},
        "metrics": [{"type": "accuracy", "value": record["correct"] / record["total"]}],
    }
    fields = {
        "library_name": "peft" if formats[0] == "peft" else "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", record["method"], record["suite"]],
        "license": hub_license,
        **({"license_name": name or "unknown"} if hub_license == "other" else {}),
        **({"base_model": hub_name} if hub_name else {}),
    }
    if record["protocol"] == "final":
        fields["model-index"] = [{"name": f"{record['method']} on {record['task']}", "results": [result]}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def escape(value: object) -> str:
    """Returns a value for a cell of a Markdown table."""
    return re.sub(r"([|<>])", r"\\\1", " ".join(str(value).split()))
