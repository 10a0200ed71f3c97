"""The claims of docs/trust.md that concern no single record: settings, lineage, protocols, tuning, code and dtype."""

import json
import re

import pytest

from moppa.record.cell import cell_from_config
from moppa.record.integrity import find_inconsistency
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.provenance import sources_sha256
from tests.conftest import CONFIGS, ROOT, config_of
from tests.factories import record_of, write_record_file


def claims():
    """Yields the claim and the test file of each row of the first table of docs/trust.md."""
    rows = re.findall(r"^\| (.+?) \|.*\| `(\w+)` \|$", (ROOT / "docs" / "trust.md").read_text(), flags=re.MULTILINE)
    yield from rows


def test_every_claim_of_the_docs_names_its_tests():
    text = (ROOT / "docs" / "trust.md").read_text()
    rows = [line for line in text.split("## What is checked")[1].split("\n\n")[1].splitlines() if line.startswith("| ")]
    assert len(list(claims())) == len(rows) - 1 >= 15
    for claim, name in claims():
        assert (ROOT / "tests" / "integrity" / f"{name}.py").is_file(), claim
    assert len(text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+method.rank=4", "method.attach.rank"),
        ("+lr=0.1", "train.lr"),
        ("+epochs=50", "train.epochs"),
        ("+run.thread=2", "run.threads"),
        ("+foo=1", "there is no setting foo"),
    ],
)
def test_a_setting_that_nothing_reads_gets_no_key_and_no_row(override, words):
    with pytest.raises(UserError, match=re.escape(words)):
        cell_from_config(config_of("task=eurosat", "method=lora", override), weights_sha256="w")


def test_the_lineage_cannot_be_set_and_follows_from_the_class_of_the_source():
    with pytest.raises(UserError, match="lineage"):
        instantiate(config_of("task=eurosat", "data=noah", "+data.lineage=tfds"), "data")
    record = record_of("task=dtd", "method=lora", "data=noah", lineage="tfds")
    assert find_inconsistency(record) == "its lineage is tfds, its data source reads noah_jpeg"


@pytest.mark.parametrize("split", ["test", "train800val200"])
def test_tuning_cannot_read_the_test_set(split):
    protocol = instantiate(config_of("task=eurosat", "protocol=tune"), "protocol")
    with pytest.raises(UserError, match=f"never {split}"):
        protocol.restrict(lambda name: name)(split)


def test_an_edited_tune_record_selects_nothing(tmp_path):
    for lr in (0.01, 0.001):
        overrides = ("task=eurosat", "method=lora", f"train.lr={lr}")
        path = write_record_file(tmp_path, *overrides, protocol="tune", percent=58.5, weights="w", predictions=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"correct": 200}))
    config = config_of("task=eurosat", "method=lora", "hparams=best", f"run.results={tmp_path}")
    with pytest.raises(UserError, match=r"has 117 of 200 images correct, its record 200"):
        select_hparams(config, weights_sha256="w")


def test_the_digest_of_the_code_covers_the_package_the_method_and_the_yamls(monkeypatch, tmp_path):
    digests = {sources_sha256(module) for module in ("baselines.lora", "baselines.vpt")}
    yaml = CONFIGS / "method" / "lora.yaml"
    digests.add(sources_sha256("baselines.lora", (("method/lora.yaml", yaml),)))
    (tmp_path / "moppa").mkdir()
    monkeypatch.setattr("moppa.utils.provenance.PACKAGE", tmp_path / "moppa")
    sources_sha256.cache_clear()
    digests.add(sources_sha256("baselines.lora"))
    (tmp_path / "moppa" / "new.py").touch()
    sources_sha256.cache_clear()
    digests.add(sources_sha256("baselines.lora"))
    sources_sha256.cache_clear()
    assert len(digests) == 5


def test_the_dtype_is_in_the_key():
    keys = {
        cell_from_config(config_of("task=eurosat", "method=lora", *overrides), weights_sha256="w").key
        for overrides in (
            ["run.device=cpu"],
            ["run.device=cpu", "run.precision=float32"],
            ["run.device=cpu", "run.precision=bf16-mixed"],
            ["run.device=cpu", "run.precision=bf16"],
        )
    }
    assert len(keys) == 3
