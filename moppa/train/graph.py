"""CUDA graphs: a function is recorded once, and a replay launches all of its kernels at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moppa.peft.collect import trainable_parameters
from moppa.train.checkpoint import generator_states, set_generator_states

NUM_WARMUP_CALLS = 3  # libraries choose their kernels and allocate workspaces, which a recording must not


class GraphRecorder:
    """Records functions as CUDA graphs. They share their memory, so that only one output is valid at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Calls a function a few times, records it, and returns a function that replays it.

        A replay reads and writes the same tensors. It draws from the device's default generator as a call would.
        """
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARMUP_CALLS):
                function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                output = function()
        except RuntimeError:
            release_generator(self.device)
            raise

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def release_generator(device: torch.device) -> None:
    """Makes the device's default generator usable after a recording that failed, which would leave it recording."""
    generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    generator.graphsafe_set_state(generator.clone_state())


@contextmanager
def undone(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Undoes, in place, what the block does to trained tensors, buffers, the optimizer's state and the generators.

    State that the optimizer creates inside the block is set to zero, from which AdamW and SGD start.
    """
    tensors = [parameter.detach() for parameter in trainable_parameters(model).values()]
    saved = [(tensor, tensor.clone()) for tensor in (*tensors, *model.buffers(), *state_tensors(optimizer))]
    known = {id(tensor) for tensor, _ in saved}
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)
            for tensor in state_tensors(optimizer):
                if id(tensor) not in known:
                    tensor.zero_()


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns the tensors of an optimizer's state: averages, momenta and counts of steps."""
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
