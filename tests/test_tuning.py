"""Error levels: their size is no part of what they forecast, and follows from the innovations."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from hydroda.calibrating import stretches, tuning
from hydroda.calibrating.calibration import open_loop
from hydroda.filters import linear, sigma
from hydroda.forecast import correction, intervals, quarters
from hydroda.models import hbv
from hydroda.schema import LEADS

MODEL = hbv.hourly()
HOURS = 3000


@cache
def past() -> stretches.Past:
    """A river that is 30 % higher than the model says, seen by a gauge with an error of 3 %."""
    rng = np.random.default_rng(8)
    wet = np.repeat(rng.random(HOURS // 10) < 0.15, 10)
    forcing = np.stack((np.where(wet, rng.exponential(1.5, HOURS), 0.0), np.full(HOURS, 0.05)), 1)
    p = MODEL.defaults[0, 0].numpy()
    states = open_loop(MODEL, p, forcing)
    runoff = MODEL.discharge(states.unsqueeze(1), MODEL.defaults)[:, 0, 0].numpy()
    observed = 1.3 * runoff * np.exp(0.03 * rng.normal(size=HOURS))
    return stretches.past(forcing, observed, states, np.ones(HOURS, bool))


def levels() -> np.ndarray:
    """Error levels that are not the defaults."""
    return np.array([p.default for p in tuning.table(MODEL)]) * np.linspace(0.5, 2.0, len(tuning.table(MODEL)))


def judged(values: np.ndarray, build) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared errors (24,) and normalised innovations squared of error levels."""
    rows = tuning.rows(MODEL, build, MODEL.defaults[0, 0].numpy(), past(), values[None])
    found = stretches.analyses(rows, past(), stretches.EVERY)
    return tuning.squares(rows, past(), found).error[0, 0], found.nis.numpy()


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_size_of_all_errors_together_changes_no_forecast(factor):
    """From the first hour on: an extended filter is told nothing but proportions."""
    scaled = np.concatenate((factor * levels()[:-1], levels()[-1:]))  # the last is the memory of the rain error
    (as_they_are, nis), (of_scaled, smaller) = (judged(values, linear.extended) for values in (levels(), scaled))
    np.testing.assert_allclose(of_scaled, as_they_are, rtol=1e-6)
    np.testing.assert_allclose(smaller * factor**2, nis, rtol=1e-6)


def test_sized_errors_explain_the_innovations():
    found = tuning.sized(MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy(), past(), levels())
    ratio = found[:-1] / levels()[:-1]
    np.testing.assert_allclose(ratio, ratio[0])
    assert found[-1] == levels()[-1] and not np.isclose(ratio[0], 1.0, rtol=0.1)
    _, nis = judged(found, sigma.ukf)
    assert np.mean(nis < chi2.ppf(intervals.SHARE, 1)) == pytest.approx(intervals.SHARE, abs=0.02)


def test_a_filter_forecasts_better_than_no_filter_and_every_candidate_is_judged_alone():
    no_filter = np.concatenate((np.full(len(MODEL.states), 1e-9), levels()[len(MODEL.states) :]))
    rows = tuning.rows(MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy(), past(), np.stack((no_filter, levels())))
    without, with_filter = tuning.squares(rows, past(), stretches.analyses(rows, past(), stretches.EVERY)).error[0]
    assert (with_filter < without).all() and with_filter[0] < 0.2 * without[0]
    np.testing.assert_allclose(judged(levels(), sigma.ukf)[0], with_filter, rtol=1e-12)


def test_the_residual_of_an_analysis_is_worth_what_forecasts_with_it_show():
    rows = tuning.rows(MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy(), past(), levels()[None])
    analysed = stretches.analyses(rows, past(), stretches.EVERY)
    found = tuning.squares(rows, past(), analysed)
    each = stretches.forecasts(rows, past(), analysed, lambda at: past().forcing[at])
    for memory in ((0.0, 0.0), (3.0, 0.0), (50.0, 4.0)):
        now, before = correction.left(LEADS[:, None], np.array(memory))
        left = now * each.residual + before * each.residual_before
        expected = ((each.of_filter + left - each.observed) ** 2).mean(1)
        np.testing.assert_allclose(found.corrected(np.array([memory]))[0, 0, 0], expected, rtol=1e-6)
    (memory,), (loss,) = tuning.residual_memory(found, 0.01)
    every = np.log(found.corrected(tuning.MEMORIES)[:, 0, 0] / 0.01 + 1e-4).mean(-1)
    every += np.where(tuning.MEMORIES[:, 1] > 0.0, quarters.HARDLY, 0.0)
    assert loss == pytest.approx(every.min()) and every.min() <= every[0] and memory in tuning.MEMORIES


def test_residuals_are_those_of_consecutive_hours():
    """A forecast knows the residual of the hour it is issued at and of that before, whatever hours are scored."""
    one = replace(past(), starts=past().starts[:1])
    rows = tuning.rows(MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy(), one, levels()[None])
    every, some = (
        stretches.forecasts(rows, one, stretches.analyses(rows, one, hours), lambda at: one.forcing[at])
        for hours in (1, 6)
    )
    np.testing.assert_array_equal(every.issue[::6], some.issue)
    np.testing.assert_array_equal(every.residual[::6], some.residual)
    np.testing.assert_array_equal(every.residual[5::6][:-1], some.residual_before[1:])
    moments = stretches.analyses(rows, one, 6).moments
    seen = torch.cat([MODEL.discharge(each.belief.mean, MODEL.defaults)[:, 0, 0] for each in moments])
    np.testing.assert_allclose(some.residual, one.observed[some.issue] - seen, rtol=1e-12)


def test_one_lead_alone_may_be_what_counts():
    """A residual that is all of the error at 1 h and tells nothing beyond: remembered for 1 h, forgotten for all."""
    product = np.where(LEADS == 1, -1.0, 0.0)[None, None]
    one, none = np.ones_like(product), np.zeros_like(product)
    found = tuning.Squares(one, product, none, one, none, one)
    (memory,), (loss,) = tuning.residual_memory(found, 2.0, (1,))
    assert tuple(memory) == (tuning.LONG[-1], 0.0)
    assert loss == pytest.approx(np.log((1 - np.exp(-1 / memory[0])) ** 2 / 2 + 1e-4))
    (memory,), (loss,) = tuning.residual_memory(found, 2.0)
    assert 0 < memory[0] < 20 and loss < np.log(0.5 + 1e-4)


@pytest.mark.parametrize(("short", "worth"), [(tuning.SHORT[4], True), (tuning.SHORT[1], False)])
def test_a_residual_that_goes_on_changing_has_a_second_memory(short, worth):
    """Errors that follow an autoregression of second order, which is found if it says enough more than one of first."""
    rng, long = np.random.default_rng(4), tuning.LONG[25]
    p, q = np.exp(-1 / long), np.exp(-1 / short)
    e = np.zeros(40_000)
    for i, push in enumerate(rng.normal(size=e.size)):
        e[i] = (p + q) * e[i - 1] - p * q * e[i - 2] + push
    now, before, ahead = e[1:-24], e[:-25], np.stack([e[1 + lead : e.size - 24 + lead] for lead in LEADS])
    sums = (ahead**2, -ahead * now, -ahead * before, now**2, now * before, before**2)
    found = tuning.Squares(*(np.broadcast_to(each.mean(-1), LEADS.size)[None, None] for each in sums))
    (memory,), _ = tuning.residual_memory(found, float(e.var()))
    loss = np.log(found.corrected(tuning.MEMORIES)[:, 0, 0] / e.var() + 1e-4).mean(-1)
    best = tuning.MEMORIES[loss.argmin()]
    assert tuple(best) == (long, short)  # whatever it is worth
    assert tuple(memory) == (long, short) if worth else memory[1] == 0.0


def test_every_quarter_has_a_say():
    """Errors of one great flood and of three dry seasons: halving those of the seasons is worth more than a tenth of
    the flood's."""
    errors = np.array([[1.0, 1.0, 0.9], [1e-2, 0.5e-2, 1e-2], [1e-2, 0.5e-2, 1e-2], [1e-2, 0.5e-2, 1e-2]])
    as_it_is, drier, wetter = quarters.loss(errors)
    assert drier < wetter < as_it_is
    np.testing.assert_allclose(quarters.loss(10.0 * errors) - np.log(10.0), (as_it_is, drier, wetter), atol=0.01)


def test_quarters_are_apart_and_one_without_observations_does_not_count():
    """A gauge that is silent in the second of two halves of a year leaves what the first alone says."""
    own, rows_of = past(), partial(tuning.rows, MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy())
    starts = np.array([240, 480, 720, 960, 1200, 2200])
    whole = replace(own, starts=starts)
    hours = np.arange(HOURS)
    silent = replace(whole, observed=torch.where(torch.from_numpy(hours > 960), torch.nan, own.observed))
    early = replace(whole, starts=starts[:3])

    def of(known: stretches.Past) -> np.ndarray:
        rows = rows_of(known, levels()[None])
        return tuning.squares(rows, known, stretches.analyses(rows, known, 60)).error

    assert of(whole).shape[0] == 2 and of(early).shape[0] == 1
    np.testing.assert_allclose(of(whole)[:1], of(early), rtol=1e-10)
    assert of(silent).shape[0] == 1


def test_a_search_is_for_the_leads_asked_for(monkeypatch):
    """What it minimises, of levels that are not the defaults."""
    p, variance = MODEL.defaults[0, 0].numpy(), past().variance
    monkeypatch.setattr(tuning, "minimised", lambda loss, table, **_: loss(levels()[None]))
    rows = tuning.rows(MODEL, sigma.ukf, p, past(), levels()[None])
    squares = tuning.squares(rows, past(), stretches.analyses(rows, past(), stretches.EVERY))
    asked, every = (tuning.tune(MODEL, sigma.ukf, p, past(), **how) for how in ({"leads": (1,)}, {}))
    assert asked == tuning.residual_memory(squares, variance, (1,))[1] < every
    assert every == tuning.residual_memory(squares, variance)[1]


def test_a_gain_of_zero_leaves_the_open_loop_with_its_last_error():
    none = np.concatenate((np.full(len(MODEL.states), 1e-12), levels()[len(MODEL.states) :]))
    rows = tuning.rows(MODEL, sigma.ukf, MODEL.defaults[0, 0].numpy(), past(), none[None])
    each = stretches.forecasts(
        rows, past(), stretches.analyses(rows, past(), stretches.EVERY), lambda at: past().forcing[at]
    )
    flow = MODEL.discharge(past().states.unsqueeze(1), MODEL.defaults)[:, 0, 0].numpy()
    np.testing.assert_allclose(each.open_loop_at_issue, flow[each.issue])
    np.testing.assert_allclose(each.observed_at_issue - each.residual, each.open_loop_at_issue, rtol=1e-6)
    observed = past().observed.numpy()
    np.testing.assert_array_equal(each.observed_at_issue, observed[each.issue])
    np.testing.assert_array_equal(each.change_at_issue, observed[each.issue] - observed[each.issue - 1])
    np.testing.assert_allclose(each.of_filter, each.open_loop, rtol=1e-6)


def test_a_record_too_short_is_refused():
    few = np.arange(HOURS) < 700
    with pytest.raises(ValueError, match="700 hours to tune a filter on, 984"):
        stretches.past(past().forcing.numpy(), past().observed.numpy(), past().states, few)
    assert torch.isfinite(past().states).all()
