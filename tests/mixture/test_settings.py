"""The settings of MoPPA: one list of names, with the same defaults in the library and in the YAML."""

import inspect
import math

import pytest

from moppa.mixture import insert
from moppa.mixture.settings import MixtureSettings, parse_settings
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import config_of
from tests.mixture.models import SETTINGS, attach_to, vit


def test_the_defaults_are_those_of_the_yaml():
    assert list(SETTINGS) == list(inspect.signature(MixtureSettings).parameters)
    defaults = MixtureSettings()
    assert tuple(SETTINGS["priors"]) == defaults.priors
    assert MixtureSettings(**{**SETTINGS, "priors": defaults.priors}) == defaults


def test_the_signature_of_attach_lists_the_settings():
    parameters = inspect.signature(insert.attach).parameters
    assert list(parameters) == ["model", "generator", *SETTINGS]
    assert parameters["rank"].default == SETTINGS["rank"]


def test_the_harness_names_the_full_path_of_a_wrong_setting():
    with pytest.raises(UserError, match=r"^method\.attach: .*'rnak'; choose from the settings in its YAML$"):
        instantiate(config_of("task=eurosat", "method=moppa", "+method.attach.rnak=4"), "method.attach", _partial_=True)
    for override, message in {
        "method.attach.rank=0": "method.attach.rank=0: it must be an integer of at least 1",
        "method.attach.rank=65": "method.attach.rank=65 is above the backbone's width 64: choose a smaller rank",
        "method.attach.start.time=-1": "method.attach.start.time=-1: it must be a number above 0",
    }.items():
        attach = instantiate(config_of("task=eurosat", "method=moppa", override), "method.attach", _partial_=True)
        with pytest.raises(UserError) as error:
            attach(vit(), generator=None)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"^rank=0.*at least 1"),
        ({"priors": []}, r"^priors=\[\].*identity, heat, wave, poisson"),
        ({"priors": ["heat", "heat"]}, r"^priors=.*each once"),
        ({"priors": ["diffusion"]}, r"^priors='diffusion'.*heat, wave, poisson"),
        ({"position": "mlp"}, r"^position='mlp'.*attn_input, residual, attn_parallel, mlp_parallel, qv"),
        ({"router": "off"}, r"^router='off'.*dynamic, static"),
        ({"poisson_gain": "one"}, r"^poisson_gain='one'.*exact, unit"),
        ({"start": {"time": 1.0}}, r"^start=.*diffusivity, speed, time"),
        ({"start": {"diffusivity": 1.0, "speed": 0, "time": 1.0}}, r"^start\.speed=0.*above 0"),
        ({"constants_per": "head"}, r"^constants_per='head'.*channel, frequency"),
        ({"constants_per": "frequency", "rank": None}, r"^constants_per=frequency: .*set rank"),
        ({"damping": 0}, r"^damping=0.*above 0"),
        ({"gate": True, "rank": None}, r"^gate=true: .*set rank"),
        ({"physics_rate": 0}, r"^physics_rate=0.*above 0"),
        ({"scale": math.nan}, r"^scale=nan.*above 0"),
        ({"route_weight": -1}, r"^route_weight=-1.*at least 0"),
        ({"ranks": 8}, r"^ranks: there is no such setting; choose from rank"),
    ],
)
def test_a_wrong_setting_is_reported(settings, message):
    with pytest.raises(UserError, match=message):
        parse_settings(settings)
    with pytest.raises(UserError, match=message):
        attach_to(vit(), **settings)
