"""Several methods in one model: each is attached to what the ones before it have made of the frozen backbone."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Generator, nn

from moppa.peft.attached import Change, changed_by, check_gradients
from moppa.peft.blocks import find_blocks, only_layers
from moppa.peft.method import Examples, FinishedTensors, attach_method, refuse_records
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError
from moppa.utils.renamed import locate

ENTRIES = ("name", "version", "fit", "attach", "layers")  # of a method's YAML, and the blocks that it changes here
FROM_RUN = ("generator", "examples", "finished")  # arguments that come from the run, not from a YAML


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the methods: its place in `methods`, its name, its function with all settings, and its blocks.

    `layers_setting` is the setting that names the blocks.
    """

    place: str
    name: str
    attach: Callable[..., None]
    layers: Any
    layers_setting: str

    @property
    def label(self) -> str:
        """The method as it is set, for messages."""
        return f"{self.place}={self.name}"

    @property
    def reads_images(self) -> bool:
        """Whether it reads training images before it is attached."""
        return "examples" in inspect.signature(self.attach).parameters


def attach(
    model: nn.Module,
    *,
    methods: Mapping[str, Any],
    layers: Sequence[int] | Sequence[bool] | None,
    generator: Generator | None,
    examples: Examples,
    finished: FinishedTensors = refuse_records,
) -> None:
    """Attaches methods in the alphabetical order of their places, `a`, `b`, ..., which a record keeps.

    A method changes weights after the methods before it, and its wrappers go around theirs. The first one starts as it
    does alone; the others draw their initial values after it.

    Args:
        model: a frozen backbone with a trainable head.
        methods: by its place what a method's YAML holds: `name`, and `attach` with `_target_` and every setting.
        layers: the blocks that the methods change: their depths, from 0 on, or true or false for each block; None for
            all. A method with `layers` of its own has those instead; with [] it is not attached.
        generator: draws the initial values.
        examples: returns batches of training images, for a method that reads them.
        finished: returns the trained tensors of finished cells, for a method that starts from some.

    Raises:
        UserError: if a setting is wrong, or the methods cannot be combined.
    """
    parts = [read_part(place, entry, layers) for place, entry in sorted(methods.items())]
    depths = {part.label: selected_layers(part, model) for part in parts}
    parts = [part for part in parts if depths[part.label] != []]
    check_images(parts)
    changes: dict[str, Change] = {}
    for part in parts:
        with only_layers(model, depths[part.label]), changed_by(model) as change:
            attach_part(model, part, generator=generator, examples=examples, finished=finished)
        if depths[part.label] is not None:
            check_inside(model, part, change, depths[part.label] or [])
        check_combination(model, part.label, change, changes)
        changes[part.label] = change
    if len(parts) > 1:
        check_gradients(model, {label: change.trained for label, change in changes.items()})


def read_part(place: str, entry: Any, layers: Any) -> Part:
    """Returns a method that was composed, with its settings checked by name.

    Raises:
        SettingError: if it is none, or has an unknown setting or lacks one.
    """
    setting = f"methods.{place}"
    if not isinstance(entry, Mapping) or "name" not in entry or "_target_" not in (entry.get("attach") or {}):
        raise SettingError(
            setting, ": this is no method; add one with +method@method.attach.methods.c=lora, remove one with ~"
        )
    if unknown := [name for name in entry if name not in ENTRIES]:
        raise SettingError(
            f"{setting}.{unknown[0]}", f": there is no such setting; those of the method are in {setting}.attach"
        )
    if "fit" in entry:
        raise SettingError(
            setting, f"={entry['name']}: it solves for the head, which no other method can train then; leave it out"
        )
    function = find_function(f"{setting}.attach", entry["attach"]["_target_"])
    settings = {name: value for name, value in entry["attach"].items() if not name.startswith("_")}
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in FROM_RUN
    ]
    for name in settings:
        if name not in needed:
            raise SettingError(
                f"{setting}.attach.{name}", f": there is no such setting; {entry['name']} has {', '.join(needed)}"
            )
    if missing := [name for name in needed if name not in settings]:
        raise SettingError(f"{setting}.attach.{missing[0]}", f" is missing: {entry['name']} needs it")
    own = entry.get("layers")
    return Part(
        place=setting,
        name=entry["name"],
        attach=partial(function, **settings),
        layers=layers if own is None else own,
        layers_setting="layers" if own is None else f"{setting}.layers",
    )


def find_function(setting: str, target: str) -> Callable[..., None]:
    """Returns the function that attaches a method. Raises `SettingError` if it does not exist, or composes itself."""
    try:
        function = locate(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"{setting}._target_", f"={target}: {error}; take that of the method's YAML") from error
    if function is attach:
        raise SettingError(setting, ": a composition in a composition; name its methods here")
    return function


def selected_layers(part: Part, model: nn.Module) -> list[int] | None:
    """Returns the depths of the blocks that a method changes; None for all.

    Raises:
        SettingError: if they are not those of the model.
    """
    if part.layers is None:
        return None
    num_blocks, layers, setting = len(find_blocks(model)), part.layers, part.layers_setting
    wanted = (
        f"={layers!r}: give depths from 0 to {num_blocks - 1}, true or false for each of {num_blocks} blocks, or null"
    )
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise SettingError(setting, wanted)
    if layers and all(isinstance(layer, bool) for layer in layers):
        if len(layers) != num_blocks:
            raise SettingError(setting, wanted)
        return [depth for depth, is_selected in enumerate(layers) if is_selected]
    for layer in layers:
        if validate.integer(setting, layer, minimum=0) >= num_blocks:
            raise SettingError(setting, wanted)
    return sorted(set(layers))


def check_images(parts: Sequence[Part]) -> None:
    """Raises `SettingError` if a method that reads images would not read them through the frozen model."""
    labels = [part.label for part in parts if part.reads_images]
    if len(labels) > 1:
        raise SettingError(
            "methods",
            f": {labels[0]} and {labels[1]} both choose what to train by images in the frozen model; leave one out",
        )
    if labels and labels[0] != parts[0].label:
        raise SettingError(
            "methods", f": {labels[0]} chooses what to train by images in the frozen model; give it the first place"
        )


def attach_part(
    model: nn.Module, part: Part, *, generator: Generator | None, examples: Examples, finished: FinishedTensors
) -> None:
    """Attaches one method. A setting that it rejects is named by its place."""
    try:
        attach_method(model, part.attach, generator=generator, examples=examples, finished=finished)
    except SettingError as error:
        raise error.inside(f"{part.place}.attach") from error


def check_inside(model: nn.Module, part: Part, change: Change, layers: Sequence[int]) -> None:
    """Raises `UserError` if a method changes something outside of its blocks."""
    with only_layers(model, layers):
        blocks = [block.module for block in find_blocks(model)]
    inside = {id(tensor) for block in blocks for tensor in block.parameters()}
    outside = [name for number, name in (change.trained | change.computed).items() if number not in inside]
    if outside:
        raise UserError(f"{part.label} also changes {outside[0]}, outside of its layers: set its layers to null")


def check_combination(model: nn.Module, label: str, change: Change, earlier: Mapping[str, Change]) -> None:
    """Raises `UserError` if a method and one of those before it disturb each other."""
    everything = all(parameter.requires_grad for parameter in model.parameters())
    for other, change_of_other in earlier.items():
        if everything:
            raise UserError(f"{label} and {other}: one of them trains the whole backbone; leave the other one out")
        first, second = change_of_other, change
        both = {**keep(first.trained, second.computed), **keep(second.trained, first.computed)}
        if both:
            raise UserError(
                f"{label} and {other} both change {next(iter(both.values()))}, which one of them trains itself and the "
                f"other computes from the pretrained one; leave one out"
            )
        if first.adds_tokens and second.adds_tokens:
            raise UserError(f"{label} and {other} both add tokens, and remove each other's; leave one out")
        if (first.adds_tokens and second.reads_grid) or (second.adds_tokens and first.reads_grid):
            raise UserError(
                f"{label} and {other}: one of them adds tokens, and the other reads all tokens as the image's grid; "
                f"leave one out"
            )
    if not change.trained:
        others = f" beside {', '.join(earlier)}" if earlier else ""
        raise UserError(f"{label} adds nothing to be trained{others}; leave it out")


def keep(names: Mapping[int, str], others: Mapping[int, str]) -> dict[int, str]:
    """Returns the tensors that are also among `others`, with their names there."""
    return {number: others[number] for number in names if number in others}
