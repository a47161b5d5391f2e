"""The page about experiments has every setting, and that about the options of strategies every option."""

import re

import attrs
import pytest
from pages import read

from sparsecore.experiment.experiment import (
    DataSettings,
    KeepSettings,
    ReallocationSettings,
    StartSettings,
    Training,
)
from sparsecore.plugins.discovery import load

EXPERIMENTS = read("docs/experiments.md")
STRATEGY_OPTIONS = read("docs/strategy-options.md")


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("data", DataSettings),
        ("training", Training),
        ("reallocation", ReallocationSettings),
        ("start", StartSettings),
        ("keep", KeepSettings),
    ],
)
def test_every_setting_is_documented(section: str, settings: type) -> None:
    for field in attrs.fields(settings):
        assert f"`{section}.{field.name}`" in EXPERIMENTS


@pytest.mark.parametrize(
    "strategy",
    [
        "dpr",
        "set",
        "deepr",
        "gradient-deepr",
        "soft-deepr",
        "rigl",
        "srigl",
        "snfs",
        "gmp",
        "iterative-pruning",
        "granet",
        "chts",
        "acdc",
        "mest",
        "gse",
        "topkast",
        "smet",
        "momentum-growth",
        "magnitude-drop",
        "wanda-drop",
        "density-schedule",
    ],
)
def test_every_hyperparameter_is_documented(strategy: str) -> None:
    table = STRATEGY_OPTIONS.partition(f"| `{strategy}` | default |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert documented == [field.name for field in attrs.fields(load("strategy", strategy))]
