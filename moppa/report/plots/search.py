"""The chart of a search over composed methods: accuracy on val200 against parameters, and the Pareto front."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from moppa.record.schema import mean_accuracy
from moppa.report.load import ValidRecord
from moppa.report.plots.encodings import COLORS, Spec, round_number, tooltip
from moppa.report.plots.parameters import HEIGHT, WIDTH, params_axis, params_scale, pareto_front
from moppa.report.plots.scales import fit_scale


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a method that were tuned on one task: their parameters and accuracies on val200 (%), by key."""

    name: str
    title: str
    params: pd.Series
    accuracy: pd.Series

    @property
    def front(self) -> list[str]:
        """The keys of the Pareto front: no other setting has at most as many parameters and a higher accuracy."""
        return pareto_front(self.params, self.accuracy)


def searches(records: Iterable[ValidRecord]) -> Iterator[Search]:
    """Yields the searches among tune records: methods that compose others, with settings of several sizes.

    The accuracy of a setting is the mean over its seeds.
    """
    groups: dict[tuple[str, ...], dict[str, list[ValidRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        composes = isinstance(record["config"]["method"]["attach"].get("methods"), Mapping)
        if record["protocol"] == "tune" and composes and not record.sender:
            group = tuple(record[name] for name in ("suite", "backbone", "method", "task"))
            groups[group][record["key"]].append(record)
    for (suite, backbone, method, task), settings in sorted(groups.items()):
        params = pd.Series({key: float(of[0]["trainable_params"]) for key, of in settings.items()})
        if params.nunique() > 1:
            accuracy = {key: 100 * float(mean_accuracy([one.content for one in of])) for key, of in settings.items()}
            yield Search(
                name=f"{suite}-{backbone}-tune-{method}-{task}-pareto",
                title=f"{method}, {task}, {backbone}: {len(settings)} settings",
                params=params,
                accuracy=pd.Series(accuracy),
            )


def pareto_chart(search: Search) -> Spec:
    """Shows the accuracy on val200 of each setting against its trainable parameters, and the Pareto front."""
    front = set(search.front)
    points = [
        {
            "key": key,
            "params": float(search.params.at[key]),
            "accuracy": round_number(float(search.accuracy.at[key])),
            "kind": "Pareto front" if key in front else "other setting",
        }
        for key in sorted(search.params.index, key=lambda key: (search.params[key], search.accuracy[key], key))
    ]
    x = {**params_axis(search.params), "scale": params_scale(search.params).spec}
    y = {
        "field": "accuracy",
        "type": "quantitative",
        "scale": fit_scale(list(search.accuracy)).spec,
        "title": "accuracy on val200 (%)",
    }
    color = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": ["Pareto front", "other setting"], "range": [COLORS[1], "#999"]},
        "legend": {"title": None, "orient": "bottom"},
    }
    return {
        "title": {
            "text": search.title,
            "subtitle": "on the line: no setting of at most this size is more accurate",
            "anchor": "start",
        },
        "width": WIDTH,
        "height": HEIGHT,
        "layer": [
            {
                "data": {"values": [point for point in points if point["key"] in front]},
                "mark": {"type": "line", "interpolate": "step-after", "color": COLORS[1], "strokeWidth": 1},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": sorted(points, key=lambda point: point["key"] in front)},  # the front is drawn last
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {"x": x, "y": y, "color": color, "tooltip": tooltip("key", "params", "accuracy")},
            },
        ],
    }
