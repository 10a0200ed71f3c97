"""Parametrized layers share a class, and merging restores the stock layer."""

import copy
import pickle

import torch
from torch import nn

from moppa.peft.inject import ParametrizedLinear, disable_output_deltas, merge, parametrize_weights, wrap_module


class Doubled(nn.Module):
    """A delta with a fast output, which counts its calls."""

    num_calls = 0

    def forward(self, weight):
        return 2 * weight

    def layer_output(self, layer, x):
        Doubled.num_calls += 1
        return 2 * layer.pretrained_output(x) - layer.pretrained("bias")


class Plus(nn.Module):
    """A delta without a fast output."""

    def forward(self, weight):
        return weight + 1


def frozen():
    return nn.Linear(3, 2).requires_grad_(False)


def test_a_linear_layer_uses_the_fast_output_of_its_delta():
    layer, x = frozen(), torch.randn(4, 3)
    expected = nn.functional.linear(x, 2 * layer.weight, layer.bias)
    parametrize_weights(layer, weight=Doubled())
    before = Doubled.num_calls
    torch.testing.assert_close(layer(x), expected)
    assert Doubled.num_calls == before + 1
    torch.testing.assert_close(disable_output_deltas(layer)(x), expected)
    assert Doubled.num_calls == before + 1


def test_a_second_delta_disables_the_fast_output_of_the_first():
    layer, x = frozen(), torch.randn(4, 3)
    expected = nn.functional.linear(x, 2 * layer.weight + 1, layer.bias)
    parametrize_weights(layer, weight=Doubled())
    parametrize_weights(layer, weight=Plus())
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(merge(layer)(x), expected)


def test_layers_that_are_parametrized_alike_share_a_class_and_keep_it_when_one_is_merged():
    first, second, other = frozen(), frozen(), frozen()
    for layer in (first, second):
        parametrize_weights(layer, weight=Doubled())
    parametrize_weights(other, weight=Plus())
    assert type(first) is type(second) is not type(other)
    assert issubclass(type(first), ParametrizedLinear)
    assert not issubclass(type(other), ParametrizedLinear)
    twin = copy.deepcopy(second)
    expected = second.weight.clone()
    merge(first)
    assert type(first) is nn.Linear
    assert set(first.__dict__) == set(nn.Linear(3, 2).__dict__)
    assert torch.equal(second.weight, expected)
    assert torch.equal(twin.weight, expected)


def test_a_parametrized_layer_can_be_pickled():
    layer, x = frozen().eval(), torch.randn(4, 3)
    parametrize_weights(layer, weight=Doubled(), bias=Plus())
    parametrize_weights(layer, weight=Plus())
    for of in (layer, disable_output_deltas(layer)):
        twin = pickle.loads(pickle.dumps(of))
        torch.testing.assert_close(twin(x), of(x))
        assert type(twin) is type(of)
        assert list(twin.state_dict()) == list(of.state_dict())
        assert {name: p.requires_grad for name, p in twin.named_parameters()} == {
            name: p.requires_grad for name, p in of.named_parameters()
        }
        assert not any(module.training for module in twin.modules())
    torch.testing.assert_close(merge(twin)(x), layer(x))
    assert type(twin) is nn.Linear


def test_merging_keeps_the_pretrained_parameter_object():
    layer = frozen()
    weight = layer.weight
    parametrize_weights(layer, weight=Plus())
    merge(layer)
    assert layer.weight is weight


def test_a_wrapped_module_is_merged_if_it_can_be():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.is_merged = inner, False

        def merge(self):
            self.is_merged = True

    model = nn.Sequential(nn.Identity())
    wrap_module(model, "0", Wrapper)
    assert isinstance(model[0].inner, nn.Identity)
    assert not model[0].is_merged
    assert merge(model)[0].is_merged
