"""The mini suite: the same bytes on every machine, and a source that refuses all others."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from moppa.data import cache
from moppa.data.mini.canvas import SINES, UNIT, as_bytes, blur, rotation
from moppa.data.mini.draws import Draws
from moppa.data.mini.source import MiniSource, function_of
from moppa.data.tfds import TfdsSource
from moppa.demo import ALL_TASKS
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, config_of

MINI = sorted(path.stem for path in (CONFIGS / "task" / "mini").glob("*.yaml"))


def task_of(name):
    return instantiate(config_of(f"task=mini/{name}"), "task")


def source_in(folder):
    return MiniSource(lineage="generated", cache=str(folder))


def test_the_suite_is_eight_tasks_in_the_three_groups_and_no_part_of_vtab():
    tasks = [task_of(name) for name in MINI]
    assert sorted(task.column for task in tasks) == list(range(1, 9))
    assert {task.suite for task in tasks} == {"mini"}
    groups = [task.group for task in sorted(tasks, key=lambda task: task.column)]
    assert groups == ["natural"] * 2 + ["specialized"] * 2 + ["structured"] * 4
    assert sorted(ALL_TASKS) == [f"mini/{name}" for name in MINI]


def test_a_stored_task_is_proven_to_be_that_of_its_yaml(tmp_path):
    source, task = source_in(tmp_path), task_of("sprites_location")
    assert cache.split_check(task, source, size=64, interpolation="bicubic")["verdict"] == "official"


@pytest.mark.parametrize("name", MINI)
def test_validation_images_are_those_of_the_yaml_byte_for_byte(name, tmp_path):
    assert len(list(source_in(tmp_path).examples(task_of(name), "val200"))) == 200


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train800", "test"])
@pytest.mark.parametrize("name", MINI)
def test_all_images_are_those_of_the_yaml_byte_for_byte(name, part, tmp_path):
    task = task_of(name)
    assert len(list(source_in(tmp_path).examples(task, part))) == task.size_of(part)


@pytest.mark.parametrize("part", ["train800", "val200", "test"])
def test_another_byte_is_refused(part, tmp_path):
    task = task_of("digits")
    other = replace(task, splits={**task.splits, part: task.splits[part].replace("seed0", "seed1")})
    with pytest.raises(UserError, match=rf"drawn for {part} are not those of the task's definition"):
        list(source_in(tmp_path).examples(other, part))


@pytest.mark.parametrize("name", MINI)
def test_no_image_stands_in_two_splits(name):
    task = task_of(name)
    taken = [set(range(*bounds(task.splits[part]))) for part in ("train800", "val200", "test")]
    assert sum(map(len, taken)) == len(set.union(*taken)) == 1000 + task.num_test


def bounds(split):
    first, _, end = split.removeprefix("seed0[").removesuffix("]").partition(":")
    return int(first or 0), int(end)


@pytest.mark.parametrize("name", MINI)
def test_an_image_depends_on_seed_and_index_alone_and_every_class_comes_up(name):
    draw, task = function_of(task_of(name)), task_of(name)
    first, again, other = draw(0, 5)[0], draw(0, 5)[0], draw(1, 5)[0]
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert {draw(0, index)[1] for index in range(200)} == set(range(task.num_classes))


def test_draws_are_shake_256_of_the_key_and_the_number_of_the_draw():
    draws = Draws("a", 1)
    draws.below(10)
    number = int.from_bytes(hashlib.shake_256(b"a/1#2").digest(8), "big")
    assert draws.below(1000) == number * 1000 >> 64
    assert abs(float(Draws("b").bells(100, 100).mean())) < 0.03
    assert abs(float(Draws("b").bells(100, 100).std()) - 1) < 0.03


def test_no_sine_of_the_table_lies_so_near_a_half_that_a_mathematical_library_could_round_it_otherwise():
    exact = [UNIT * math.sin(math.radians(degree)) for degree in range(360)]
    assert min(abs(value - math.floor(value) - 0.5) for value in exact) > 1e-4
    assert [round(value) for value in exact] == SINES
    assert rotation(90) == (0.0, 1.0)


def test_a_blur_keeps_what_is_even_and_bytes_are_rounded_half_up():
    assert np.allclose(blur(np.full((64, 64, 3), 0.3), 2), 0.3)
    assert as_bytes(np.array([-1.0, 0.5 / 255, 0.49 / 255, 2.0])).tolist() == [0, 1, 0, 255]


def test_a_mini_task_chooses_its_source_and_another_may_be_asked_for():
    assert isinstance(instantiate(config_of("task=mini/spots"), "data"), MiniSource)
    assert isinstance(instantiate(config_of("task=mini/spots", "data=tfds"), "data"), TfdsSource)
    assert isinstance(instantiate(config_of("task=eurosat"), "data"), TfdsSource)


def test_a_task_that_is_not_drawn_is_refused_with_the_way_out(tmp_path):
    task = instantiate(config_of("task=eurosat"), "task")
    with pytest.raises(UserError, match=r"no function that draws images.*configs/task/mini"):
        next(source_in(tmp_path).examples(task, "train800"))
    drawn = task_of("spots")
    with pytest.raises(UserError, match=r"no slice like 'seed0\[800:1000\]'"):
        next(source_in(tmp_path).examples(replace(drawn, splits={**drawn.splits, "test": "test"}), "test"))
