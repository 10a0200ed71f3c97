"""Charts of the tables as Vega-Lite specifications, which serve both the page and the figures."""
