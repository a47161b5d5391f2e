"""CHTs follows the paper: receptive fields, a drawn removal, and growth by CH2-L3n, spelled out path by path."""

import itertools
import math
from fractions import Fraction

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered, masks_of, without_smallest
from engine_examples import engine, topologies, topology, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import erdos_renyi_kernel, uniform
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.chts import CannistraciHebb
from sparsecore_strategies.chts_graph import ch2_l3n, predicted_links, receptive_fields

ROOMY = Layout.of({"kernels": (5, 3, 2, 2), "matrix": (12, 8), "vector": (30,), "small": (5, 4)})
CONSTANT = CannistraciHebb(drop_fraction=0.3, schedule=Every(steps=1))
HALFWAY = Clock(step=50, total_steps=100)


def scores_by_paths(links):
    """CH2-L3n of each pair that is not linked, from the paths output - input - output - input between them."""
    outputs, inputs = links.shape
    scores = {}
    for u, v in itertools.product(range(outputs), range(inputs)):
        if links[u, v]:
            continue
        inside = set()
        for x, y in itertools.product(range(inputs), range(outputs)):
            if links[u, x] and links[y, x] and links[y, v]:
                inside |= {("input", x), ("output", y)}
        scores[u, v] = sum((_ratio(node, inside, links, u, v) for node in inside), Fraction(0))
    return scores


def _ratio(node, inside, links, u, v):
    kind, index = node
    ends = links[:, index] if kind == "input" else links[index]
    other = "output" if kind == "input" else "input"
    neighbours = {(other, end) for end in np.flatnonzero(ends).tolist()} - {("output", u), ("input", v)}
    return Fraction(1 + len(neighbours & inside), 1 + len(neighbours - inside))


@st.composite
def graphs(draw, most=5):
    """The links of a graph, each node of which may have any number."""
    shape = draw(st.tuples(st.integers(2, most), st.integers(2, most)))
    return np.array(draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)


@given(graphs(), st.randoms(use_true_random=False))
def test_predicted_links_have_the_scores_of_all_paths_of_length_three(links, random):
    layout = Layout.of({"first": (3,), "graph": links.shape})
    kept = topology(layout, [0, *(np.flatnonzero(links) + 3)])
    taken = [place for place in range(links.size) if links.ravel()[place] or random.random() < 0.2]
    occupied = topology(layout, [0, 1, *(place + 3 for place in taken)])
    found = predicted_links(kept, occupied, "graph")
    expected = {
        u * links.shape[1] + v: score
        for (u, v), score in scores_by_paths(links).items()
        if score and u * links.shape[1] + v not in taken
    }
    assert found.positions.tolist() == sorted(expected)
    if expected:
        factor = found.scores.sum() / float(sum(expected.values()))
        wanted = [float(expected[place]) * factor for place in sorted(expected)]
        np.testing.assert_allclose(found.scores, wanted, rtol=1e-9)


def test_sums_of_scores_are_exact_in_any_order():
    links = (np.random.default_rng(0).random((150, 90)) < 0.2).astype(float)
    links[np.arange(150), np.arange(150) % 90] = 1
    rows, columns = (np.random.default_rng(seed).permutation(side) for seed, side in enumerate(links.shape))
    scores = ch2_l3n(links)
    assert (scores == np.floor(scores)).all()
    assert 2**40 < scores.max() < 2**53
    assert np.array_equal(ch2_l3n(links[rows][:, columns]), scores[rows][:, columns])


@given(st.integers(0, 99), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_the_start_has_exactly_its_number_of_weights_equally_many_for_each_output(seed, randomness, sparsity):
    strategy = attrs.evolve(CONSTANT, randomness=randomness)
    began = engine(ROOMY, [strategy], seed=seed).start(sparsity).topology
    assert began.counts.tolist() == uniform(ROOMY, sparsity).tolist()
    for name in ("kernels", "matrix", "small"):
        mask = began.mask(name)
        degrees = mask.reshape(len(mask), -1).sum(1)
        assert degrees.max() - degrees.min() <= 1


def test_without_randomness_each_output_starts_with_its_nearest_inputs():
    (positions,) = receptive_fields(Layout.of({"w": (4, 8)}), np.array([12]), 0.0, Randomness(0))
    # the outputs lie at 0.5, 2.5, 4.5 and 6.5 between the inputs; the first and the last input are neighbours;
    # of two at the same distance the lower one is taken
    assert [(place // 8, place % 8) for place in positions.tolist()] == [
        *((0, each) for each in (0, 1, 2)),
        *((1, each) for each in (1, 2, 3)),
        *((2, each) for each in (3, 4, 5)),
        *((3, each) for each in (0, 6, 7)),
    ]


@pytest.mark.parametrize("randomness", [0.4, 1.0])
def test_an_output_draws_inputs_by_a_power_of_their_distance(randomness):
    layout, side, runs = Layout.of({"w": (9, 9)}), 9, 700
    places = np.concatenate(
        [receptive_fields(layout, np.array([side]), randomness, Randomness(seed))[0] for seed in range(runs)]
    )
    offsets = (places % side - places // side) % side
    distances = np.minimum(offsets, side - offsets)
    weights = (1.0 + np.minimum(np.arange(side), side - np.arange(side))) ** -((1 - randomness) / randomness)
    for distance in range(5):
        share = weights[[distance]].sum() * (1 if distance == 0 else 2) / weights.sum()
        assert abs(np.mean(distances == distance) - share) < 5 * math.sqrt(share * (1 - share) / len(places))


def test_weights_are_distributed_over_the_tensors_as_asked():
    began = engine(ROOMY, [attrs.evolve(CONSTANT, start="erk")]).start(0.8)
    assert began.topology.counts.tolist() == erdos_renyi_kernel(ROOMY, 0.8).tolist()


@given(st.integers(0, 100), st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5]), st.booleans())
def test_the_hard_rule_drops_the_smallest_and_grows_the_highest_scores_of_what_is_left(seed, fraction, regrow):
    strategy = attrs.evolve(CONSTANT, drop_fraction=fraction, removal="smallest", growth="highest")
    algorithm = engine(ROOMY, [strategy], seed=seed, regrow_pruned=regrow)
    state = algorithm.start(0.7, clock=HALFWAY)
    weights = drawn(ROOMY, seed)
    after, got = algorithm.update(state, gathered(state.topology, weights))
    assert after.topology.counts.tolist() == state.topology.counts.tolist()
    assert (got.values[got.grown_slots] == 0).all()
    found = masks_of(after.topology)
    for name, mask in masks_of(state.topology).items():
        count = min(floored(fraction, mask.sum()), int((~mask).sum()))
        left = without_smallest(mask, weights[name], count)
        free, grown = ~left if regrow else ~mask, found[name] & ~left
        assert grown.sum() == count
        assert (found[name] & left).sum() == left.sum()
        assert not (grown & ~free).any()
        scores = np.zeros(mask.size)
        shape = ROOMY.shapes[ROOMY.index(name)]
        for (u, v), score in scores_by_paths(left.reshape(shape[0], -1)).items():
            scores[u * math.prod(shape[1:]) + v] = float(score)
        # of equal sums of fractions, rounding may prefer any
        best = np.sort(scores[free])[::-1][:count]
        np.testing.assert_allclose(np.sort(scores[grown])[::-1], best, rtol=1e-9)


def test_two_weights_are_drawn_in_proportion_to_a_growing_power_of_their_magnitudes():
    tensors = 900
    layout = Layout.of({f"w{number}": (1, 4) for number in range(tensors)})
    start = topology(layout, np.arange(2 * tensors) // 2 * 4 + np.arange(2 * tensors) % 2)
    values = np.tile([1.0, 2.0], tensors)
    for step, likely in ((0, 2 / 3), (50, 4 / 5), (99, 0.887)):  # 2^T : 1, T = 1, 2 and 2.98
        algorithm = engine(layout, [attrs.evolve(CONSTANT, drop_fraction=0.5)], regrow_pruned=False)
        state = algorithm.start_at(start, clock=Clock(step=step, total_steps=100))
        _, got = algorithm.update(state, values)
        share = np.mean(got.values[got.values > 0] == 2)
        assert abs(share - likely) < 5 * math.sqrt(likely * (1 - likely) / tensors)


def test_links_grow_in_proportion_to_their_scores():
    links = np.zeros((4, 4), bool)
    links[[0, 0, 1, 1, 1, 2, 2, 3], [0, 1, 1, 2, 3, 2, 3, 0]] = True
    # one more link, to a node of its own, is the one that is dropped
    expected = {u * 5 + v: float(score) for (u, v), score in scores_by_paths(links).items() if score}
    graph = np.zeros((5, 5), bool)
    graph[:4, :4], graph[4, 4] = links, True
    tensors, strategy = 900, attrs.evolve(CONSTANT, drop_fraction=0.12, removal="smallest")
    layout = Layout.of({f"w{number}": (5, 5) for number in range(tensors)})
    places = np.flatnonzero(graph)
    algorithm = engine(layout, [strategy], regrow_pruned=False)
    state = algorithm.start_at(topology(layout, np.concatenate([places + 25 * each for each in range(tensors)])))
    _, got = algorithm.update(state, np.tile(np.where(places == 24, 0.1, 1.0), tensors))
    grown = got.grown_positions % 25
    assert len(grown) == tensors
    assert set(grown.tolist()) == set(expected)
    for place, score in expected.items():
        share = score / sum(expected.values())
        assert abs(np.mean(grown == place) - share) < 5 * math.sqrt(share * (1 - share) / tensors)


@given(topologies(), st.data())
def test_every_tensor_keeps_its_number_of_weights_and_grows_at_free_positions(before, data):
    options = {
        "drop_fraction": data.draw(st.sampled_from([0.1, 0.5, 0.9])),
        "score": data.draw(st.sampled_from(["magnitude", "relative"])),
        "growth": data.draw(st.sampled_from(["soft", "highest"])),
    }
    seed, strategy = data.draw(st.integers(0, 9)), attrs.evolve(CONSTANT, **options)
    algorithm = engine(before.layout, [strategy], seed=seed, regrow_pruned=False)
    after, got = algorithm.update(algorithm.start_at(before, clock=HALFWAY), data.draw(values_of(before)))
    assert after.topology.counts.tolist() == before.counts.tolist()
    assert not set(got.grown_positions.tolist()) & set(before.positions.tolist())
    limits = np.minimum([floored(options["drop_fraction"], count) for count in before.counts], before.room)
    assert (got.pruned <= limits).all()
    assert (got.pruned >= np.minimum(limits, before.counts - 1)).all()


def test_the_relative_importance_is_a_share_of_the_inputs_and_of_the_outputs_weights():
    layout = Layout.of({"w": (3, 4)})
    weights = np.array([[9.0, 8.0, 0, 0], [0, 7.0, 0, 1.0], [0, 0, 0.5, 0]])
    shares = np.nan_to_num(abs(weights) / abs(weights).sum(0) + abs(weights) / abs(weights).sum(1, keepdims=True))
    places = np.flatnonzero(weights)
    order = places[np.argsort(shares.ravel()[places])]
    for count in range(1, 5):
        strategy = attrs.evolve(CONSTANT, drop_fraction=count / 5, removal="smallest", score="relative")
        algorithm = engine(layout, [strategy], regrow_pruned=False)
        _, got = algorithm.update(algorithm.start_at(topology(layout, places)), weights.ravel()[places])
        assert sorted(got.pruned_positions.tolist()) == sorted(order[:count].tolist())


def test_what_grows_again_at_once_keeps_its_value_by_default():
    strategy = attrs.evolve(CONSTANT, drop_fraction=0.5)
    kept, started = (engine(ROOMY, [strategy], regrow_pruned=regrow) for regrow in (None, True))
    state = kept.start(0.5, clock=HALFWAY)
    values = gathered(state.topology, drawn(ROOMY))
    (_, by_default), (_, from_zero) = (each.update(state, values) for each in (kept, started))
    assert by_default.after.positions.tolist() == from_zero.after.positions.tolist()
    again = np.isin(from_zero.grown_positions, state.topology.positions)
    assert 0 < again.sum() < len(again)
    assert np.count_nonzero(by_default.values) == np.count_nonzero(from_zero.values) + again.sum()


def test_a_convolution_is_the_matrix_of_its_outputs_and_its_inputs_at_each_kernel_position():
    ends = []
    for shape in ((6, 4, 3, 3), (6, 36)):
        algorithm = engine(Layout.of({"w": shape}), [CONSTANT])
        state = algorithm.start(0.7, clock=HALFWAY)
        after, _ = algorithm.update(state, np.linspace(-1, 1, state.topology.size))
        ends.append((state.topology.positions.tolist(), after.topology.positions.tolist()))
    assert ends[0] == ends[1]


def test_a_run_without_end_needs_a_constant_exponent():
    options = {"last_exponent": 1.0, "schedule": Every(steps=1)}
    for strategy, refused in ((CONSTANT, True), (attrs.evolve(CONSTANT, **options), False)):
        algorithm = engine(ROOMY, [strategy])
        state = algorithm.start(0.5)
        values = gathered(state.topology, drawn(ROOMY))
        if refused:
            with pytest.raises(InputError, match=r"last_exponent .*total_steps"):
                algorithm.update(state, values)
        else:
            assert algorithm.update(state, values)[1].pruned_count > 0


@pytest.mark.parametrize(
    "options", [{"randomness": 1.1}, {"randomness": -0.1}, {"last_exponent": 0.5}, {"growth": "hard"}, {"score": "ri"}]
)
def test_hyperparameters_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        CannistraciHebb(**options)
