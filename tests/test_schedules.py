"""Schedules are functions of the clock."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Amount, Clock, Cosine, Every, Piecewise, as_amount, as_schedule, as_written
from sparsecore.errors import InputError


def due(every, steps, **clock):
    return [step for step in range(steps + 1) if every(Clock(step=step, **clock))]


def test_a_clock_counts_steps_and_updates_separately():
    clock = Clock(step=9, steps_per_epoch=5, total_steps=11)
    assert (clock.epoch, clock.has_ended) == (1, False)
    assert clock.tick() == Clock(step=10, steps_per_epoch=5, total_steps=11)
    assert clock.tick().epoch == 2
    assert clock.tick().tick().has_ended
    assert clock.updated() == Clock(step=9, steps_per_epoch=5, total_steps=11, updates=1)
    assert not Clock(step=10**9).has_ended


@given(st.integers(1, 50), st.integers(0, 500))
def test_every_n_steps_is_due_at_the_multiples_of_n_but_not_at_the_start(steps, last):
    assert due(Every(steps=steps), last) == [step for step in range(1, last + 1) if step % steps == 0]


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 200))
def test_every_n_epochs_is_due_at_the_ends_of_epochs(epochs, steps_per_epoch, last):
    wanted = [step for step in range(1, last + 1) if step % (epochs * steps_per_epoch) == 0]
    assert due(Every(epochs=epochs), last, steps_per_epoch=steps_per_epoch) == wanted


def test_steps_may_change_by_epoch():
    # epochs of 10 steps: every 4 in the first two, every 6 from the third on
    assert due(Every(steps={0: 4, 2: 6}), 40, steps_per_epoch=10) == [4, 8, 12, 16, 24, 30, 36]


def test_until_epoch_ends_updates_with_the_epoch_before():
    assert due(Every(steps=4, until_epoch=2), 40, steps_per_epoch=10) == [4, 8, 12, 16]
    assert due(Every(epochs=1, until_epoch=2), 40, steps_per_epoch=10) == [10]
    assert due(Every(steps=1, until_epoch=0), 40) == []


def test_until_ends_updates_at_a_fraction_of_the_run():
    assert due(Every(steps=5, until=0.75), 40, total_steps=40) == [5, 10, 15, 20, 25]
    assert due(Every(steps=5, until=0.76), 40, total_steps=40) == [5, 10, 15, 20, 25, 30]


def test_a_fraction_of_a_run_without_an_end_is_an_error():
    with pytest.raises(InputError, match="give the total number of steps"):
        Every(steps=5, until=0.75)(Clock(step=5))
    with pytest.raises(InputError, match="give the total number of steps"):
        Cosine(1.0)(Clock(step=5))


@given(st.integers(1, 30), st.integers(31, 200))
def test_a_number_of_updates_is_spread_evenly_up_to_the_last_step_that_another_one_follows(times, steps):
    when = due(Every(times=times), steps, total_steps=steps)
    assert len(when) == times
    assert when[-1] == steps - 1
    gaps = [after - before for before, after in pairwise([0, *when])]
    assert max(gaps) - min(gaps) <= 1


def test_a_number_of_updates_ends_at_a_fraction_of_the_run():
    assert due(Every(times=4, until=0.5), 80, total_steps=80) == [10, 20, 30, 40]
    assert due(Every(times=3), 1, total_steps=1) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either steps, epochs or times, one of the three; given none"),
        ({"steps": 4, "epochs": 5}, "either steps, epochs or times, one of the three; given steps and epochs"),
        ({"times": 1, "epochs": 1}, "either steps, epochs or times"),
        ({"times": 0}, "at least 1; given times = 0"),
        ({"times": 2, "until_epoch": 3}, "until_epoch is not for it"),
        ({"steps": 0}, "at least 1; given"),
        ({"steps": -100}, "at least 1; given"),
        ({"steps": 1.5}, "whole numbers"),
        ({"steps": {0: 100, 25: 0.5}}, "at least 1"),
        ({"steps": {25: 100}}, "starts at epoch 0"),
        ({"steps": {"start": 100, "end": 0}}, "at least 1; given"),
        ({"steps": "often"}, "a number was expected, given 'often'"),
        ({"steps": True}, "a number was expected, given True"),
        ({"steps": math.inf}, "finite"),
        ({"epochs": 0}, "at least 1; given 0"),
        ({"epochs": 1.5}, "whole number of at least 1; given 1.5"),
        ({"steps": 1, "until_epoch": -1}, "until_epoch = -1"),
        ({"steps": 1, "until": 1.5}, r"\[0, 1\]; given until = 1.5"),
        ({"steps": 1, "until": -0.5}, r"\[0, 1\]; given until = -0.5"),
        ({"steps": 1, "until": math.nan}, r"\[0, 1\]; given until = nan"),
    ],
)
def test_an_invalid_update_schedule_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Every(**arguments)


def test_steps_between_updates_may_follow_a_cosine():
    every = Every(steps={"start": 4, "end": 1})
    assert due(every, 20, total_steps=20)[-4:] == [17, 18, 19, 20]


def test_piecewise_is_constant_from_each_epoch_on():
    schedule = Piecewise({0: 0.1, 60: 0.02, 120: 0.004})
    values = {epoch: schedule(Clock(step=epoch * 500, steps_per_epoch=500)) for epoch in (0, 59, 60, 119, 120, 10**6)}
    assert values == {0: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 10**6: 0.004}
    assert schedule(Clock(step=60 * 500 - 1, steps_per_epoch=500)) == 0.1
    assert (schedule.lowest, schedule.highest) == (0.004, 0.1)


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        ({}, "starts at epoch 0"),
        ({1: 0.1}, r"given the epochs \[1\]"),
        ({0: 0.1, 60: 0.2, 30: 0.3}, r"ascend; given the epochs \[0, 60, 30\]"),
        ([(0, 0.1), (0, 0.2)], r"ascend; given the epochs \[0, 0\]"),
        ({-1: 0.1}, r"given the epochs \[-1\]"),
        ({"first": 0.1}, "given the epoch 'first'"),
        ({0.5: 0.1}, "given the epoch 0.5"),
        ({False: 0.1}, "given the epoch False"),
        ({0: "much"}, "a number was expected, given 'much'"),
        ({0: None}, "a number was expected, given None"),
        ({0: math.nan}, "finite; given nan"),
        ({0: 0.1, 5: -math.inf}, "finite; given -inf"),
    ],
)
def test_an_invalid_piecewise_schedule_is_refused_with_a_sentence(pieces, sentence):
    with pytest.raises(InputError, match=sentence):
        Piecewise(pieces)


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 0.3), (375, 0.15), (750, 0.0), (751, 0.0), (1000, 0.0), (250, 0.15 * 1.5), (500, 0.15 * 0.5)],
)
def test_cosine_is_rigls_at_the_start_the_middle_and_the_end(step, value):
    assert Cosine(0.3, until=0.75)(Clock(step=step, total_steps=1000)) == pytest.approx(value, abs=1e-15)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 1), st.integers(1, 1000))
def test_cosine_goes_monotonically_from_start_to_end_and_stays(start, end, until, total):
    schedule = Cosine(start, end, until)
    values = [schedule(Clock(step=step, total_steps=total)) for step in range(0, total + 1, max(1, total // 50))]
    assert values[0] == pytest.approx(start, abs=1e-12)
    assert schedule(Clock(step=total, total_steps=total)) == pytest.approx(end, abs=1e-12)
    direction = 1 if end >= start else -1
    assert all(direction * (b - a) >= -1e-12 for a, b in pairwise(values))
    assert all(schedule.lowest - 1e-12 <= value <= schedule.highest + 1e-12 for value in values)


@pytest.mark.parametrize("until", [0.0, -0.5, 1.5, math.nan])
def test_a_cosine_ends_within_the_run(until):
    with pytest.raises(InputError, match=r"\(0, 1\]; given until"):
        Cosine(0.3, until=until)


@pytest.mark.parametrize(
    ("given_", "schedule"),
    [
        (0.1, Piecewise({0: 0.1})),
        (3, Piecewise({0: 3})),
        ({"0": 0.1, "60": 0.02}, Piecewise({0: 0.1, 60: 0.02})),
        ({0: 0.1, 60: 0.02}, Piecewise(((0, 0.1), (60, 0.02)))),
        ({"start": 0.3}, Cosine(0.3, 0.0, 1.0)),
        ({"start": 0.3, "end": 0.1, "until": 0.75}, Cosine(0.3, 0.1, 0.75)),
        (Cosine(0.3), Cosine(0.3)),
        (Piecewise({0: 1.0}), Piecewise({0: 1.0})),
    ],
)
def test_values_of_a_settings_file_become_schedules(given_, schedule):
    assert as_schedule(given_) == schedule


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ("0.1", "a number was expected, given '0.1'"),
        (None, "a number was expected, given None"),
        (True, "a number was expected, given True"),
        ([0.1], "a number was expected"),
        ({}, "starts at epoch 0"),
        ({"end": 0.1}, "given the epoch 'end'"),
        ({"start": 0.3, "stop": 0.1}, "keys end, start, until; given start, stop"),
        ({"start": "high"}, "a number was expected, given 'high'"),
        ({"start": math.nan}, "finite"),
    ],
)
def test_a_value_that_is_not_a_schedule_is_refused_with_a_sentence(given_, sentence):
    with pytest.raises(InputError, match=sentence):
        as_schedule(given_)


# amounts


@pytest.mark.parametrize(
    ("given_", "weights", "amount"),
    [
        (20_000, 145_139, 20_000),
        ("14%", 145_139, 20_319),
        ("10%", 1000, 100),
        ("0.5%", 1000, 5),
        ("0.001%", 10, 1),
        ("99%", 200, 198),
        (7, 3, 7),
    ],
)
def test_an_amount_is_a_number_or_a_share_of_all_weights(given_, weights, amount):
    assert as_amount(given_).of_all(weights) == amount
    assert as_amount(as_amount(given_)) == Amount(given_)


@pytest.mark.parametrize(
    "given_", [0, -5, 1.5, True, None, "10", "%", "ten%", "10%%", "0%", "100%", "-3%", "nan%", "inf%", ""]
)
def test_a_value_that_is_not_an_amount_is_refused_with_a_sentence(given_):
    with pytest.raises(InputError, match=f"given {given_!r}"):
        as_amount(given_)


@given(st.integers(0, 10**6), st.integers(0, 6))
def test_decimals_are_read_exactly(digits, places):
    assert as_written(float(f"{digits}e-{places}")) * 10**places == digits


def test_schedules_are_named_in_messages_as_settings_give_them():
    assert str(Piecewise({0: 1.5})) == "1.5"
    assert str(Piecewise({0: 100, 25: 200})) == "{0: 100, 25: 200}"
