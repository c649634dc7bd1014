"""What is issued at each lead: the candidates, who is chosen, and what happens where one has nothing to say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hydroda.forecast import choice, correction
from hydroda.forecast.choice import BOTH, FILTER, METHODS, NETWORKS, TREND, WITH_TREND, Newest
from hydroda.forecast.correction import Correction
from hydroda.forecast.window import Rows
from hydroda.running.forecasting import Trail, newest
from hydroda.schema import LEADS

FITTED = Correction((1.0,) * 366, 6.0, 0.1, 0.9, 0.01, 0.0, 0.8, 0.7)
F, S = 4, 2
RANDOM = np.random.default_rng(3)
FLOW, NETS, OPEN = (RANDOM.uniform(1.0, 9.0, (F, LEADS.size, S)) for _ in range(3))
SEEN, MODELLED = (RANDOM.uniform(1.0, 9.0, (F, S)) for _ in range(2))
RESIDUAL, BEFORE = (RANDOM.normal(size=(F, S)) for _ in range(2))
CHANGE = RANDOM.normal(size=(F, S))
AGE = RANDOM.integers(0, 4, (F, S)).astype(float)


def every(networks=NETS, memory=((0.0, 0.0), (0.0, 0.0)), residual=RESIDUAL, before=BEFORE, doubt=1.0):
    known = Newest(SEEN, np.broadcast_to(doubt, (F, S)), CHANGE, MODELLED, residual, before, AGE)
    return choice.candidates(FLOW, networks, OPEN, np.array(memory), [FITTED, FITTED], known)


def test_candidates_are_the_filter_the_networks_their_mean_the_corrections_and_the_trend():
    found = every()
    assert tuple(found) == METHODS
    np.testing.assert_array_equal(found[BOTH], (FLOW + NETS) / 2)
    decay = np.exp(-(AGE[:, None] + LEADS[:, None]) / 6.0)
    np.testing.assert_allclose(
        found["decaying_error"], np.maximum(OPEN + decay * (SEEN - MODELLED)[:, None], 0.0), rtol=1e-12
    )
    hour = AGE[:, None] + LEADS[:, None]
    trend = SEEN[:, None] + sum(0.7**k * (k <= hour) for k in range(1, 30)) * CHANGE[:, None]
    np.testing.assert_allclose(found[TREND], np.maximum(trend, 0.0), rtol=1e-12)
    np.testing.assert_array_equal(found[WITH_TREND], (found[BOTH] + found[TREND]) / 2)
    assert set(every(None)) == set(METHODS) - {NETWORKS, BOTH}
    np.testing.assert_array_equal(every(None)[WITH_TREND], (FLOW + found[TREND]) / 2)
    assert set(choice.CORRECTIONS) < set(correction.BASELINES)


def test_the_filter_speaks_for_networks_that_do_not_see_a_doubted_observation():
    doubt = np.where(np.arange(F)[:, None] == 1, [9.0, 1.0], np.nan)  # NaN: there is no observation for either
    found = every(doubt=doubt)
    for name in (NETWORKS, BOTH):
        np.testing.assert_array_equal(found[name][1, :, 0], FLOW[1, :, 0])
        np.testing.assert_array_equal(found[name][1, :, 1], every()[name][1, :, 1])
        np.testing.assert_array_equal(found[name][[0, 2, 3]], every()[name][[0, 2, 3]])


def test_the_residual_of_the_analysis_fades_from_the_forecast_of_the_filter():
    unseen = np.where(np.arange(F)[:, None] == 2, np.nan, RESIDUAL)
    found = every(memory=((5.0, 0.0), (0.0, 0.0)), residual=unseen)
    left = np.exp(-(AGE[:, None] + LEADS[:, None]) / 5.0)
    expected = np.maximum(FLOW + left * RESIDUAL[:, None], 0.0)
    np.testing.assert_allclose(found[FILTER][[0, 1, 3], :, 0], expected[[0, 1, 3], :, 0], rtol=1e-12)
    np.testing.assert_array_equal(found[FILTER][2], FLOW[2])
    np.testing.assert_array_equal(found[FILTER][..., 1], FLOW[..., 1])
    np.testing.assert_allclose(found[BOTH], (found[FILTER] + NETS) / 2)


def test_what_is_left_of_a_residual_goes_on_as_its_last_hours_did():
    """Its autoregression of second order, hour by hour; one before that is missing is taken to have been the same."""
    a, b = np.exp(-1 / 9.0), np.exp(-1 / 2.0)
    path = [RESIDUAL - 0.1, RESIDUAL]
    for _ in range(int(AGE.max()) + LEADS.size):
        path.append((a + b) * path[-1] - a * b * path[-2])
    hour = (1 + AGE[:, None] + LEADS[:, None]).astype(int)
    left = np.take_along_axis(np.stack(path, 1), hour, 1)
    expected = np.maximum(FLOW + left, 0.0)
    found = every(memory=((9.0, 2.0), (9.0, 2.0)), before=RESIDUAL - 0.1)[FILTER]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    same, missing = (every(memory=((9.0, 2.0),) * 2, before=each)[FILTER] for each in (RESIDUAL, RESIDUAL * np.nan))
    np.testing.assert_array_equal(same, missing)
    equal, nearly = (correction.left(LEADS, np.array([5.0, other])) for other in (5.0, 4.999))
    np.testing.assert_allclose(equal, nearly, rtol=0.01)


def errors(**values):
    """Mean squared errors in four parts, the same at all leads; 1 for the filter."""
    return {
        name: np.array(parts)[:, None] * np.ones(LEADS.size)
        for name, parts in {FILTER: (1.0, 1.0, 1.0, 1.0), **values}.items()
    }


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, FILTER),
        ({"open_loop": (2.0,) * 4}, FILTER),
        ({NETWORKS: (0.2, 0.9, 1.01, 1.01)}, FILTER),  # better on average, worse in half of the parts
        ({NETWORKS: (0.7, 0.9, 0.9, 1.01)}, NETWORKS),
        ({NETWORKS: (0.8,) * 4, "decaying_error": (0.9,) * 4}, NETWORKS),
        ({BOTH: (0.7,) * 4, NETWORKS: (0.9,) * 4, "ar1_error": (0.1, 1.5, 1.5, 1.5)}, BOTH),
        ({NETWORKS: (np.nan, 0.1, 0.1, 0.1)}, FILTER),
        ({BOTH: (np.nan, 0.1, 0.1, 0.1)}, FILTER),
        ({BOTH: (1.01,) * 4}, BOTH),  # the usual one, unless it is worse
        ({BOTH: (1.03,) * 4}, FILTER),
        ({BOTH: (0.81,) * 4, NETWORKS: (0.80,) * 4}, BOTH),  # hardly better is no reason
        ({BOTH: (0.83,) * 4, NETWORKS: (0.80,) * 4}, NETWORKS),
        ({BOTH: (0.83,) * 4, NETWORKS: (0.60, 0.80, 0.84, 0.84)}, BOTH),
        ({BOTH: (0.83,) * 4, NETWORKS: (0.60, 0.80, 0.80, 0.84)}, NETWORKS),
        ({FILTER: (1.0, 0.1, 0.1, 0.1), "open_loop": (0.1, 0.2, 0.2, 0.2)}, FILTER),  # but for one flood
        ({"ar1_error": (0.5, 0.5, 0.5, 1.01)}, "ar1_error"),
        ({TREND: (0.5, 0.5, 0.5, 1.01), WITH_TREND: (0.7, 0.7, 0.7, 1.01)}, TREND),
    ],
)
def test_another_than_the_usual_must_be_better_in_most_parts_or_three_of_four_without_assimilation(others, expected):
    assert choice.best(errors(**others)) == (expected,) * LEADS.size


def test_two_parts_of_five_are_not_enough():
    five = {FILTER: np.ones((5, LEADS.size)), NETWORKS: np.array([0.3, 0.3, 1.1, 1.1, 1.1])[:, None] * np.ones(24)}
    assert choice.best(five) == (FILTER,) * LEADS.size
    five |= {TREND: np.array([0.1, 0.1, 0.1, 1.1, 1.1])[:, None] * np.ones(24)}  # of which three are not either
    assert choice.best(five) == (FILTER,) * LEADS.size
    five[WITH_TREND] = five[TREND] + 0.1
    assert choice.best(five) == (WITH_TREND,) * LEADS.size
    del five[WITH_TREND]
    five[NETWORKS][3] = 0.9
    assert choice.best(five) == (NETWORKS,) * LEADS.size


def test_every_lead_is_chosen_for_itself():
    both = errors(decaying_error=(0.5,) * 4)
    both["decaying_error"][:, 3:] = 2.0
    names = choice.best(both)
    assert names == ("decaying_error",) * 3 + (FILTER,) * 21  # 4 h with 3, 5 and 6 h are no better
    assert choice.in_words(names) == "decaying error to 3 h, filter to 24 h"


def test_one_lead_among_others_does_not_change_the_method():
    own = errors(**{NETWORKS: (0.9,) * 4})
    own[NETWORKS][:, 11] = 1.01  # by chance
    assert choice.best(own) == (NETWORKS,) * LEADS.size
    own[NETWORKS][:, 14:] = 1.1
    assert choice.best(own)[:10] == (NETWORKS,) * 10 and choice.best(own)[17:] == (FILTER,) * 7


def test_what_has_nothing_to_say_leaves_it_to_the_filter():
    found = every()
    found[NETWORKS] = np.where(np.arange(F)[:, None, None] == 1, np.nan, found[NETWORKS])
    names = np.full((LEADS.size, S), NETWORKS, object)
    names[5:, 1] = "open_loop"
    issued = choice.blended(found, names)
    np.testing.assert_allclose(issued[0, :, 0], NETS[0, :, 0], rtol=1e-12)
    np.testing.assert_allclose(issued[1, :, 0], FLOW[1, :, 0], rtol=1e-12)
    np.testing.assert_allclose(choice.blended(every(None), names)[:, :4], FLOW[:, :4], rtol=1e-12)


def test_from_one_method_to_the_next_a_forecast_passes_over():
    """From 6 h on another: at 5 h it has a quarter (4, 5, 6 h count 1, 2, 1), at 6 h three, at 7 h all."""
    found, names = every(), np.full((LEADS.size, S), NETWORKS, object)
    names[5:, 1] = "open_loop"
    issued = choice.blended(found, names)
    np.testing.assert_allclose(issued[..., 0], NETS[..., 0], rtol=1e-12)
    share = np.array([0.0] * 4 + [1.0, 3.0] + [4.0] * 18) / 4.0
    np.testing.assert_allclose(issued[..., 1], (1.0 - share) * NETS[..., 1] + share * OPEN[..., 1], rtol=1e-12)


def test_no_pattern_of_leads_is_turned_round_by_what_is_around():
    """Else widths that learn from misses would run away: a plain mean of neighbours has negative eigenvalues."""
    np.testing.assert_allclose(choice.AROUND.sum(1), 1.0)
    assert (choice.AROUND >= 0.0).all() and np.linalg.eigvals(choice.AROUND).real.min() > 0.0


def test_what_is_near_in_lead_is_averaged_where_there_is_anything():
    values = np.stack([LEADS.astype(float)] * 2, 1) ** 2
    values[11, 1] = np.nan
    found = choice.near_leads(values)
    expected = [1.0, 16.0, 25.5, np.average(np.arange(10, 15) ** 2, weights=(1, 2, 3, 2, 1)), 529.5, 576.0]
    assert found[[0, 3, 4, 11, 22, 23], 0] == pytest.approx(expected)
    assert np.isnan(found[11, 1]) and np.isnan(found[:, 1]).sum() == 1
    assert found[10, 1] == pytest.approx(np.average([81, 100, 121, 169], weights=(1, 2, 3, 1)))


def test_half_of_a_flood_beyond_the_record_is_left_to_the_open_loop():
    """Nothing up to half of the highest flow, a quarter at that, half from one and a half times that on."""
    found = every() | {"decaying_error": np.full((F, LEADS.size, S), 7.0)}
    issued = np.broadcast_to(np.array([2.0, 10.0, 15.0, 90.0])[:, None, None], (F, LEADS.size, S))
    highest = np.array([10.0, 30.0])
    share = choice.beyond(issued, highest)
    np.testing.assert_allclose(share[:, 0, 0], [0.0, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(share[:, 0, 1], [0.0, 0.0, 0.0, 0.5])
    made = choice.moderated(issued, found, share)
    np.testing.assert_allclose(made[:, 5, 0], [2.0, 9.25, 11.0, 48.5])
    np.testing.assert_allclose(made[:3, :, 1], issued[:3, :, 1])
    told = choice.share_in_words(np.concatenate([np.zeros((10, S)), share[1, :10], np.zeros((4, S))]))
    assert told == ["up to 25 % left to open loop + last error at 11-20 h", ""]


def test_a_flood_is_issued_as_it_is_where_no_highest_flow_or_no_open_loop_is_known():
    found = every()
    np.testing.assert_array_equal(choice.moderated(FLOW, found, choice.beyond(FLOW, np.array([np.inf, np.inf]))), FLOW)
    nothing = found | {"decaying_error": np.full_like(FLOW, np.nan)}
    np.testing.assert_array_equal(choice.moderated(FLOW, nothing, choice.beyond(FLOW, np.ones(S))), FLOW)
    gap = np.where(np.arange(S) == 0, np.nan, FLOW)
    made = choice.moderated(gap, found, choice.beyond(gap, np.full(S, 0.1)))
    assert np.isnan(made[..., 0]).all()
    np.testing.assert_allclose(made[..., 1], 0.5 * (FLOW + found["decaying_error"])[..., 1])


def test_the_newest_residual_and_the_one_before_are_told_of_each_station():
    """Of the newest hour with an observation; of the hour before nothing is told where either is doubted or missing."""
    observed = np.array(
        [[1.0, 2.0, 4.0, np.nan, 3.0], [1.5, 2.5, np.nan, np.nan, np.nan], [2.0, 3.0, 5.0, np.nan, np.nan]]
    )
    doubt = np.ones((3, 5))
    doubt[2, 1] = 9.0
    hours = [SimpleNamespace(open_loop=torch.full((5,), 0.5 + i), estimate=torch.full((5,), 1.0 + i)) for i in range(3)]
    group = SimpleNamespace(area=np.full(5, 3.6))  # where 1 mm/h is 1 m³/s
    trail = Trail(None, Rows(np.zeros((3, 5, 2)), observed, doubt), tuple(hours))
    found = newest(group, trail)
    np.testing.assert_allclose(found.observed, (2.0, 3.0, 5.0, np.nan, 3.0))
    np.testing.assert_allclose(found.open_loop, (2.5, 2.5, 2.5, np.nan, 0.5))
    np.testing.assert_allclose(found.doubt, (1.0, 9.0, 1.0, np.nan, 1.0))
    np.testing.assert_allclose(found.change, (0.5, np.nan, np.nan, np.nan, np.nan))
    np.testing.assert_allclose(found.residual, (-1.0, 0.0, 2.0, np.nan, 2.0))
    np.testing.assert_allclose(found.residual_before, (-0.5, np.nan, np.nan, np.nan, np.nan))
    np.testing.assert_allclose(found.age, (0.0, 0.0, 0.0, np.nan, 2.0))
    doubt[:2, 0] = 1.0, 9.0
    found = newest(group, trail)
    assert np.isnan(found.residual_before).all() and np.isnan(found.change).all()
