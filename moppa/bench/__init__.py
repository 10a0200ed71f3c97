"""Benchmarks: the parts of `moppa bench`."""

import moppa.backbone.lean_timm  # noqa: F401 - before timm
