"""Names of rows that differ in their settings alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from moppa.record.schema import short_digest
from moppa.report.row_settings import format_value

T = TypeVar("T")
P = TypeVar("P")


def by_settings(
    items: Iterable[T], place: Callable[[T], P], settings: Callable[[T], Mapping[str, Any]]
) -> Iterator[tuple[P, str, list[T]]]:
    """Yields the items of each place that share their settings, with the place and a text of what differs there."""
    found: dict[P, dict[str, list[T]]] = {}
    for item in items:
        found.setdefault(place(item), {}).setdefault(short_digest(settings(item)), []).append(item)
    for where, by_digest in found.items():
        groups = list(by_digest.values())
        for text, own in zip(names_of_differences([settings(own[0]) for own in groups]), groups, strict=True):
            yield where, text, own


def names_of_differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns for each of some settings, by dotted name, a different text of those in which they differ.

    A single one has an empty text. Where the texts would be the same, a digest is added.
    """
    names = dict.fromkeys(name for own in settings for name in own)
    differing = [name for name in names if any(own.get(name) != settings[0].get(name) for own in settings)]
    texts = [
        ", ".join(f"{name.rpartition('.')[2]} {setting_text(own.get(name))}" for name in differing) for own in settings
    ]
    return [
        text if texts.count(text) == 1 else f"{text} {short_digest(own)[:6]}"
        for text, own in zip(texts, settings, strict=True)
    ]


def setting_text(value: Any) -> str:
    """Returns a setting's value in a row's name; of a list of settings their number."""
    is_list_of_settings = isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
    return str(len(value)) if is_list_of_settings else format_value(value)
