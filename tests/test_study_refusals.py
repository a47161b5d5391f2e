"""A study that makes no sense is refused with a sentence, before there is a folder."""

import pytest

from sparsecore.errors import InputError
from sparsecore.study.definition import Study, load_study
from sparsecore.study.trials import check_options

ARMS = [{"name": "dpr", "strategy": ["dpr"]}, {"name": "again", "strategy": ["static"], "after": "dpr"}]


def small(**changes):
    return Study.of({"name": "small", "title": "?", "figure": "bars", "sparsities": [0.9], "arm": ARMS, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arm": []}, "at least one arm"),
        ({"sparsities": []}, "at least one sparsity"),
        ({"sparsities": [0.9, 0.9]}, "sparsity .* unique; 0.9 is given twice"),
        ({"sparsities": [0.9, 0.90000001]}, "sparsity .* unique; 0.9 is given twice"),
        ({"sparsities": [1.0]}, r"\[0, 1\)"),
        ({"trials": 0}, "'trials' must be >= 1"),
        ({"trials": 100_000_000}, "'trials' must be <= 10000"),
        ({"arm": [*ARMS, ARMS[0]]}, "arm .* unique; 'dpr' is given twice"),
        ({"arm": [ARMS[0], {"name": "other", "label": "dpr"}]}, "label .* unique; 'dpr' is given twice"),
        ({"arm": ARMS[::-1]}, "no arm named 'dpr'; before it: none"),
        ({"arm": [{"name": "../up"}]}, "lower-case letters, digits, dots and hyphens; given '../up'"),
        (
            {"arm": [ARMS[0], {**ARMS[1], "once": True}]},
            "'again' runs once and cannot start from 'dpr'",
        ),
        ({"arm": [{"name": "a", "sweep": [0.1]}]}, "'{fraction}' in its name"),
        ({"arm": [{"name": "a-{fraction}", "sweep": ["end"]}]}, r"fractions of the run, each in \[0, 1\]; given 'end'"),
        ({"arm": [{"name": "a-{fraction}", "sweep": [0.5, 7]}]}, r"fractions of the run, each in \[0, 1\]; given 7"),
        ({"arm": "dpr"}, r"tables \[\[arm\]\]"),
        ({"figure": "pie"}, "'bars', 'sweep', 'sparsities'"),
        ({"colour": "red"}, "no key named 'colour'"),
    ],
)
def test_an_invalid_study_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        small(**changes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"training.epochs": "many"}, "study.epochs: a whole number was expected, given 'many'"),
        ({"training.epochs": 1.5}, "study.epochs: a whole number was expected, given 1.5"),
        ({"training.epochs": 0}, "'epochs' must be >= 1"),
        ({"seed": "lucky"}, "study.seed: a seed is a whole number from 0 to 9007199254740992; given 'lucky'"),
        ({"sparsity": 0.5}, "by --sparsity; given the setting sparsity"),
        ({"seed": 2**53}, "seeds, from 9007199254740992 on, and a seed is at most 9007199254740992"),
    ],
)
def test_options_that_no_trial_could_follow_are_refused_with_a_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        check_options(small(options=options))


def test_an_unknown_study_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no study named 'fig2'; known: fig1a, fig1bc, sparsities"):
        load_study("fig2")
