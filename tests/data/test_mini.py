"""The mini suite: the same bytes on every machine, and a source that refuses other bytes."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from moppa.data import cache
from moppa.data.check import split_check
from moppa.data.images import ImageFormat
from moppa.data.mini.canvas import SINES, UNIT, blur, rotation, to_bytes
from moppa.data.mini.draws import Draws
from moppa.data.mini.source import MiniSource, draw_function
from moppa.data.task import SPLITS
from moppa.data.tfds import TfdsSource
from moppa.demo import ALL_TASKS
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, config_of, mostly_slow

MINI = sorted(path.stem for path in (CONFIGS / "task" / "mini").glob("*.yaml"))


def task_of(name):
    return instantiate(config_of(f"task=mini/{name}"), "task")


def source_in(folder):
    return MiniSource(name="mini", cache=str(folder))


def test_the_suite_has_ten_tasks_in_the_three_groups_and_two_joined_with_its_second_version():
    tasks = sorted((task_of(name) for name in MINI), key=lambda task: task.column)
    assert [task.column for task in tasks] == list(range(1, 11))
    assert {task.suite for task in tasks} == {"mini"}
    assert [task.group for task in tasks] == ["natural"] * 2 + ["specialized"] * 2 + ["structured"] * 6
    assert [task.suite_version for task in tasks] == [1] * 8 + [2] * 2
    assert sorted(ALL_TASKS) == [f"mini/{name}" for name in MINI]


def test_the_split_check_of_a_cached_task_is_official(tmp_path):
    source, task = source_in(tmp_path), task_of("digits")
    folders = cache.prepare_splits(task, SPLITS, source, ImageFormat(64, "bicubic"))
    check = split_check(task, source, folders)
    assert (check["verdict"], check["test"]) == ("official", "official")


@pytest.mark.parametrize("name", mostly_slow(MINI, {"spots", "terrain"}))
def test_validation_images_match_the_fingerprint_byte_for_byte(name, tmp_path):
    assert len(list(source_in(tmp_path).examples(task_of(name), "val200"))) == 200


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train800", "test"])
@pytest.mark.parametrize("name", MINI)
def test_all_images_match_the_fingerprint_byte_for_byte(name, split, tmp_path):
    task = task_of(name)
    assert len(list(source_in(tmp_path).examples(task, split))) == task.num_images(split)


@pytest.mark.parametrize("split", SPLITS)
def test_images_that_differ_from_the_fingerprint_are_refused(split, tmp_path):
    task = task_of("digits")
    other = replace(task, splits={**task.splits, split: task.splits[split].replace("seed0", "seed1")})
    with pytest.raises(UserError, match=rf"drawn for {split} are not those of the task's definition"):
        list(source_in(tmp_path).examples(other, split))


@pytest.mark.parametrize("name", MINI)
def test_no_image_is_in_two_splits(name):
    task = task_of(name)
    indices = [set(range(*bounds(task.splits[split]))) for split in SPLITS]
    assert sum(map(len, indices)) == len(set.union(*indices)) == 1000 + task.num_test


def bounds(split):
    first, _, end = split.removeprefix("seed0[").removesuffix("]").partition(":")
    return int(first or 0), int(end)


@pytest.mark.parametrize("name", mostly_slow(MINI, {"spots", "terrain"}))
def test_an_image_depends_only_on_seed_and_index_and_every_class_occurs(name):
    task = task_of(name)
    draw = draw_function(task)
    first, again, other = draw(0, 5)[0], draw(0, 5)[0], draw(1, 5)[0]
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert {draw(0, index)[1] for index in range(200)} == set(range(task.num_classes))


def test_random_numbers_are_shake_256_of_the_key_and_the_number_of_the_draw():
    draws = Draws("a", 1)
    draws.below(10)
    number = int.from_bytes(hashlib.shake_256(b"a/1#2").digest(8), "big")
    assert draws.below(1000) == number * 1000 >> 64
    assert abs(float(Draws("b").normal(100, 100).mean())) < 0.03
    assert abs(float(Draws("b").normal(100, 100).std()) - 1) < 0.03


def test_no_sine_of_the_table_is_close_enough_to_a_half_to_depend_on_the_math_library():
    exact = [UNIT * math.sin(math.radians(degree)) for degree in range(360)]
    assert min(abs(value - math.floor(value) - 0.5) for value in exact) > 1e-4
    assert [round(value) for value in exact] == SINES
    assert rotation(90) == (0.0, 1.0)


def test_blur_keeps_a_constant_image_and_bytes_are_rounded_half_up():
    assert np.allclose(blur(np.full((64, 64, 3), 0.3), 2), 0.3)
    assert to_bytes(np.array([-1.0, 0.5 / 255, 0.49 / 255, 2.0])).tolist() == [0, 1, 0, 255]


def test_a_mini_task_chooses_its_source_unless_another_is_given():
    assert isinstance(instantiate(config_of("task=mini/spots"), "data"), MiniSource)
    assert isinstance(instantiate(config_of("task=mini/spots", "data=tfds"), "data"), TfdsSource)
    assert isinstance(instantiate(config_of("task=eurosat"), "data"), TfdsSource)


def test_a_task_that_is_not_drawn_is_refused_with_a_hint(tmp_path):
    task = instantiate(config_of("task=eurosat"), "task")
    with pytest.raises(UserError, match=r"not a function that draws images.*configs/task/mini"):
        next(source_in(tmp_path).examples(task, "train800"))
    drawn = task_of("spots")
    with pytest.raises(UserError, match=r"not a slice like 'seed0\[800:1000\]'"):
        next(source_in(tmp_path).examples(replace(drawn, splits={**drawn.splits, "test": "test"}), "test"))
