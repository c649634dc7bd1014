"""What became of past forecasts: when they are looked at, how widths move, and when a method stands back."""

import numpy as np
import pytest

from hydroda import intervals, ledger
from hydroda.choice import BOTH, FILTER, METHODS, NETWORKS
from hydroda.ledger import DELAY, KEPT, WATCHED
from hydroda.schema import LEADS

C = 3
BETWEEN = np.tile([2.0, 4.0, 6.0, 8.0, 10.0], (C, 1))
RANDOM = np.random.default_rng(5)


def cycle(state, observed, median=None, spread=0.2, candidates=None):
    """One cycle: an observation of `DELAY` hours ago, then a forecast."""
    state = ledger.learned(state, np.asarray(observed, float), BETWEEN)
    median = np.full((24, C), 5.0) if median is None else median
    return ledger.noted(state, median, np.full((24, C), spread), candidates or {FILTER: median})


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
        state = ledger.noted(state, flow, np.ones((24, C)), {FILTER: flow})
    change = errors[-1] - np.exp(-1.0 / ledger.MEMORY) * errors[-2]
    np.testing.assert_allclose(change, np.repeat(WATCHED[:, None] ** 2.0, C, 1), rtol=1e-6)


def test_misses_widen_hits_narrow_and_in_the_long_run_nine_in_ten_are_hits():
    state = run(ledger.empty(C), KEPT + 40, observed=50.0)
    k = intervals.class_of(np.array([[5.0]]), BETWEEN[:1])[0, 0]
    assert (state.widening[k] > 0.0).all() and not np.delete(state.widening, k, 0).any()
    assert state.widening[k, 0, 0] > state.widening[k, -1, 0]  # forecasts for tomorrow are judged later
    assert (run(ledger.empty(C), KEPT + 40, observed=5.0).widening[k] < 0.0).all()
    state, hits = ledger.empty(1), []
    for _ in range(6000):
        observed = 5.0 * np.exp(0.5 * RANDOM.normal(size=1))  # two and a half times what is claimed
        state = ledger.learned(state, observed, BETWEEN[:1])
        spread = 0.2 * np.exp(state.widening[k])
        hits.append(abs(np.log(observed[0] / 5.0)) <= spread[5, 0] * intervals.HALF_WIDTH)
        state = ledger.noted(state, np.full((24, 1), 5.0), spread, {})
    assert np.mean(hits[3000:]) == pytest.approx(0.9, abs=0.02)
    assert np.exp(state.widening[k, 5, 0]) == pytest.approx(2.5, rel=0.15)


def test_what_was_not_observed_or_not_forecast_teaches_nothing():
    state = run(ledger.empty(C), KEPT + 5)
    before, after = state, ledger.learned(state, np.array([np.nan, 50.0, 5.0]), BETWEEN)
    np.testing.assert_array_equal(after.widening[..., 0], before.widening[..., 0])
    assert (after.widening[..., 1] >= before.widening[..., 1]).all()
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
    ],
)
def test_a_method_that_erred_clearly_more_leaves_it_to_the_best_below(chosen, factors, expected):
    method = np.full((24, C), chosen)  # as wide as this name and no wider, as where nothing else was chosen
    found = ledger.guarded(erring(**factors), method)
    assert (found[:, :2] == expected).all() and (found[:, 2] == chosen).all()
    told = ledger.reasons(method, found)
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


def test_factors_make_as_many_inside_as_wanted_in_every_class_that_has_enough():
    f = 20000
    median = np.exp(RANDOM.normal(size=(24, f)))
    between = intervals.cuts(median)
    which = intervals.class_of(median, np.array(between))
    assert set(np.unique(which)) == set(range(intervals.CLASSES))
    truth = median * np.exp(np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.6])[which] * RANDOM.normal(size=median.shape))
    variance = (0.2 * median) ** 2
    found = np.array(intervals.factors(median, variance, truth, between))
    spread = np.sqrt(np.log1p(0.04)) * found[which, np.arange(24)[:, None]]
    inside = np.abs(np.log(truth / median)) <= spread * intervals.HALF_WIDTH
    for k in range(intervals.CLASSES):
        assert inside[which == k].mean() == pytest.approx(0.95 if k == intervals.CLASSES - 1 else 0.9, abs=0.025), k
    one = intervals.factors(median[:, :50], variance[:, :50], truth[:, :50], between)
    assert np.ptp(np.array(one)[[0, -1]], 0).max() < np.ptp(found[[0, -1]], 0).max()  # few count little
