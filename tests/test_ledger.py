"""What became of past forecasts: when they are looked at, how widths move, and when a method stands back."""

import numpy as np
import pytest

from hydroda.forecast import intervals, ledger
from hydroda.forecast.choice import BOTH, FILTER, METHODS, NETWORKS, TREND, WITH_TREND
from hydroda.forecast.ledger import DELAY, KEPT, WATCHED
from hydroda.schema import LEADS

C = 3
BETWEEN = np.tile([2.0, 4.0, 6.0, 8.0, 10.0], (C, 1))
RANDOM = np.random.default_rng(5)


def cycle(state, observed, median=None, spread=0.2, candidates=None):
    """One cycle: an observation of `DELAY` hours ago, then a forecast."""
    state = ledger.learned(state, np.asarray(observed, float), BETWEEN)
    median = np.full((24, C), 5.0) if median is None else median
    return ledger.noted(state, median, np.full((2, 24, C), spread), candidates or {FILTER: median})


def run(state, hours, observed=5.0, **kept):
    for _ in range(hours):
        state = cycle(state, np.full(C, observed), **kept)
    return state


def test_an_observation_meets_the_forecast_of_its_hour_for_every_lead():
    """A forecast for lead l says 100 · issue hour + l; the sums of squares then tell which were compared."""
    state, errors = ledger.empty(C), []
    for t in range(80):
        state = ledger.learned(state, np.full(C, 100.0 * (t - DELAY)), BETWEEN)
        if t >= KEPT:
            errors.append(state.squares[METHODS.index(FILTER)])
        flow = np.repeat(100.0 * (t + LEADS)[:, None], C, 1) + LEADS[:, None]
        state = ledger.noted(state, flow, np.ones((2, 24, C)), {FILTER: flow})
    change = errors[-1] - np.exp(-1.0 / ledger.MEMORY) * errors[-2]
    np.testing.assert_allclose(change, np.repeat(WATCHED[:, None] ** 2.0, C, 1), rtol=1e-6)


CLASS = int(intervals.class_of(np.array([[5.0]]), BETWEEN[:1])[0, 0])


def test_a_miss_widens_its_side_and_hits_narrow_both():
    below, above = run(ledger.empty(C), KEPT + 40, observed=50.0).widening
    assert (above[CLASS] > 0.0).all() and (below[CLASS] < 0.0).all()
    assert above[CLASS, 0, 0] > above[CLASS, -1, 0]  # forecasts for tomorrow are judged later
    for side in (below, above):
        others = np.delete(side, CLASS, 0)
        np.testing.assert_allclose(others, ledger.SHARED * np.broadcast_to(side[CLASS], others.shape))
    below, above = run(ledger.empty(C), KEPT + 40, observed=0.5).widening
    assert (above[CLASS] < 0.0).all() and (below[CLASS] > 0.0).all()
    assert (run(ledger.empty(C), KEPT + 40, observed=5.0).widening < 0.0).all()


def test_a_side_that_is_never_missed_keeps_some_width_and_one_always_missed_has_bounds():
    below, above = np.exp(run(ledger.empty(C), 3000, observed=50.0).widening[:, CLASS])
    np.testing.assert_allclose(below, 0.2)
    np.testing.assert_allclose(above, 10.0)


def test_in_the_long_run_one_in_twenty_lies_below_and_one_above():
    state, missed = ledger.empty(1), []
    for _ in range(8000):
        error = RANDOM.normal()
        error *= 0.5 if error > 0.0 else 0.1  # two and a half times and half of what is claimed
        state = ledger.learned(state, 5.0 * np.exp([error]), BETWEEN[:1])
        spread = 0.2 * np.exp(state.widening[:, CLASS])
        low, high = spread[:, 5, 0] * intervals.HALF_WIDTH
        missed.append((error < -low, error > high))
        state = ledger.noted(state, np.full((24, 1), 5.0), spread, {})
    assert np.mean(missed[4000:], 0) == pytest.approx([0.05, 0.05], abs=0.01)
    assert np.exp(state.widening[:, CLASS, 5, 0]) == pytest.approx([0.5, 2.5], rel=0.2)


def test_what_was_not_observed_or_not_forecast_teaches_nothing():
    state = run(ledger.empty(C), KEPT + 5)
    before, after = state, ledger.learned(state, np.array([np.nan, 50.0, 5.0]), BETWEEN)
    np.testing.assert_array_equal(after.widening[..., 0], before.widening[..., 0])
    assert (after.widening[1, ..., 1] >= before.widening[1, ..., 1]).all()
    assert (after.weights[..., 0] <= before.weights[..., 0]).all()
    lost = ledger.skipped(state, KEPT)
    assert np.isnan(lost.median).all() and np.isnan(lost.forecasts).all()
    np.testing.assert_array_equal(lost.squares, state.squares)
    some = ledger.skipped(state, 3)
    np.testing.assert_array_equal(some.median[:-3], state.median[3:])
    np.testing.assert_array_equal(ledger.skipped(state, 0).median, state.median)


def erring(**factors):
    """A ledger of a season in which methods were wrong by these factors; of the last catchment all were right."""
    truth = np.full((24, C), 5.0)
    wrong = np.array([1.0, 1.0, 0.0])
    forecasts = {name: truth * (1.0 + factors.get(name, 1.0) * 0.1 * wrong) for name in METHODS}
    return run(ledger.empty(C), KEPT + 800, candidates=forecasts)


@pytest.mark.parametrize(
    ("chosen", "factors", "expected"),
    [
        (FILTER, {}, FILTER),
        (FILTER, {"open_loop": 0.95}, FILTER),  # not clearly
        (FILTER, {"open_loop": 0.5}, "open_loop"),
        (FILTER, {NETWORKS: 0.1}, FILTER),  # networks are no fall-back of the filter
        (BOTH, {NETWORKS: 3.0, FILTER: 0.5, "decaying_error": 0.6}, FILTER),
        (NETWORKS, {FILTER: 2.0, "ar1_log_error": 0.4, "open_loop": 0.3}, "open_loop"),
        ("open_loop", {FILTER: 0.1}, "open_loop"),
        (TREND, {BOTH: 0.5, FILTER: 0.6}, BOTH),
        (WITH_TREND, {FILTER: 0.5, "open_loop": 0.6}, FILTER),
        (FILTER, {TREND: 0.1, WITH_TREND: 0.1}, FILTER),  # which none leaves it to but their mean
    ],
)
def test_a_method_that_erred_clearly_more_leaves_it_to_the_best_below(chosen, factors, expected):
    method = np.full((24, C), chosen)  # as wide as this name and no wider, as where nothing else was chosen
    found = ledger.guarded(erring(**factors), method)
    assert (found[:, :2] == expected).all() and (found[:, 2] == chosen).all()
    told = ledger.swaps_in_words(method, found)
    assert told[2] == "" and bool(told[0]) == (expected != chosen)
    if told[0]:
        assert "1-24 h" in told[0] and chosen.replace("_", " ") in told[0] and expected.replace("_", " ") in told[0]


def test_days_are_no_reason():
    few = run(ledger.empty(C), 200, candidates={FILTER: np.full((24, C), 9.0), "open_loop": np.full((24, C), 5.0)})
    method = np.full((24, C), FILTER, object)
    np.testing.assert_array_equal(ledger.guarded(few, method), method)


def test_catchments_are_picked_and_joined():
    state = erring(open_loop=0.5)
    again = ledger.joined([ledger.picked(state, [i]) for i in range(C)])
    for name, values in vars(state).items():
        np.testing.assert_array_equal(getattr(again, name), values)


def test_factors_leave_as_many_out_as_wanted_on_both_sides_of_every_class_that_has_enough():
    f = 20000
    median = np.repeat(np.exp(RANDOM.normal(size=(1, f))), 24, 0)  # of a class at all leads
    between = intervals.cuts(median)
    which = intervals.class_of(median, np.array(between))
    assert set(np.unique(which)) == set(range(intervals.CLASSES))
    error = np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.6])[which] * RANDOM.normal(size=median.shape)
    error *= np.where(error > 0.0, 2.0, 1.0)  # floods that nobody foresaw
    truth, variance = median * np.exp(error), (0.2 * median) ** 2
    found = np.array(intervals.factors(median, variance, truth, between))
    below, above = np.sqrt(np.log1p(0.04)) * found[:, which, np.arange(24)[:, None]] * intervals.HALF_WIDTH
    for k, tail in enumerate(intervals.TAILS):
        assert tail == pytest.approx(0.025 if k >= intervals.CLASSES - 2 else 0.05)
        for missed in (error < -below, error > above):
            assert missed[which == k].mean() == pytest.approx(tail, abs=0.01), k
    one = np.array(intervals.factors(median[:, :50], variance[:, :50], truth[:, :50], between))
    assert np.ptp(one[:, [0, -1]], 1).max() < np.ptp(found[:, [0, -1]], 1).max()  # few count little


def test_a_river_that_is_dry_has_intervals_and_is_of_the_lowest_class():
    """Whose flows are the cuts between classes too."""
    dry = np.zeros((24, 100))
    between = intervals.cuts(dry)
    assert not intervals.class_of(dry, np.array(between)).any()
    found = np.array(intervals.factors(dry, dry + 1e-20, dry, between))
    assert np.isfinite(found).all() and (found > 0.0).all()


def test_an_interval_has_two_sides_even_where_all_that_was_observed_lies_on_one():
    median = np.ones((24, 100))
    found = np.array(intervals.factors(median, 0.04 * median, np.full((24, 100), 3.0), (0.1, 0.2, 0.3, 0.4, 0.5)))
    assert (found[0] == pytest.approx(intervals.NARROWEST / intervals.HALF_WIDTH)) and (found[1] > 3.0).all()
