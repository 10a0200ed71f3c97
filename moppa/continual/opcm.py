"""OPCM as a continual strategy: the experts of the tasks are merged in the order in which they arrive."""

from moppa.continual.sequential import Independent
from moppa.merging.opcm import merge_in_order
from moppa.merging.updates import Delta


class MergedInOrder(Independent):
    """Every task trains an update from the pretrained backbone; one merged update serves all tasks."""

    keeps_earlier = False

    def __init__(self, *, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.merged: tuple[int, Delta] = (0, {})  # the number of tasks, and their merged updates

    def delta(self, task: str) -> Delta:  # noqa: ARG002 - one update for all tasks
        """Returns the merged update of all tasks so far."""
        if self.merged[0] != len(self.tasks):
            experts = [super(MergedInOrder, self).delta(name) for name in self.tasks]
            self.merged = len(self.tasks), merge_in_order(experts, alpha=self.alpha)
        return self.merged[1]
