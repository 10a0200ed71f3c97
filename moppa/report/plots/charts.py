"""The list of charts: which there are, their headings on the page and their file names."""

from collections.abc import Callable
from dataclasses import dataclass

from moppa.report.plots import accuracy, cost, parameters, rank_diagram, routes, training
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import Spec
from moppa.utils.errors import UserError

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # names the version; nothing is loaded from it


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: its heading on the page, the end of its file name, and the function that returns its specification."""

    heading: str
    name: str
    spec: Callable[[PlotData], Spec]
    needs_records: bool = False


CHARTS = (
    Chart(heading="Accuracy against parameters", name="parameters", spec=parameters.against_parameters),
    Chart(heading="Accuracy on each task", name="heat-map", spec=accuracy.heat_map),
    Chart(heading="Accuracy by group of tasks", name="groups", spec=accuracy.group_bars),
    Chart(heading="Average ranks", name="critical-difference", spec=rank_diagram.critical_difference),
    Chart(heading="Learning curves", name="learning-curves", spec=training.learning_curves, needs_records=True),
    Chart(heading="Time and memory", name="cost", spec=cost.cost, needs_records=True),
)
ROUTE_CHARTS = {"routes": routes.mixing_weights, "responses": routes.impulse_responses}


def page_charts(data: PlotData) -> dict[str, Spec]:
    """Returns the specifications of all charts that the rows have data for, by heading."""
    specs: dict[str, Spec] = {}
    for chart in CHARTS:
        try:
            specs[chart.heading] = {"$schema": SCHEMA, **chart.spec(data)}
        except UserError:
            continue
    try:
        cells = routes.routes_by_row(data)
    except UserError:
        return specs
    specs["Mixing weights"] = {"$schema": SCHEMA, **routes.mixing_weights(cells, data.title)}
    specs["Impulse responses"] = {"$schema": SCHEMA, **routes.impulse_responses(cells, data.title)}
    return specs
