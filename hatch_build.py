"""Puts configs/, baselines/ and run.py into the package when a wheel is built."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE_PACKAGE = {"configs": "moppa/configs", "baselines": "moppa/baselines", "run.py": "moppa/run.py"}


class InsidePackage(BuildHookInterface):
    """Maps top-level files of the repository into the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files if `version` is "standard"; an "editable" install reads them from the checkout."""
        if version == "standard":
            build_data["force_include"].update(INSIDE_PACKAGE)
