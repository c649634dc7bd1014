"""What is judged of a catchment: its filter in hours it was not tuned to, its networks in hours they did not see."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CALIBRATED_UNTIL, START

from hydroda import steps
from hydroda.calibrating import judging, stretches
from hydroda.calibrating.calibration import open_loop
from hydroda.calibrating.history import record_of
from hydroda.filters import guided
from hydroda.forecast import batches, calibrated, choice, correction, designs, intervals
from hydroda.forecast.choice import FILTER
from hydroda.schema import LEADS
from hydroda.units import HOUR, m3_per_second

AREA = 40.0


@pytest.fixture
def known(settings):
    """A calibrated gauge and its past."""
    store = steps.store_of(settings)
    found = calibrated.restore(store.read_parameters("ach"))
    first = START + 20 * 24 * HOUR
    record = record_of(settings, store, settings.catchment("ach"), found.model, first, CALIBRATED_UNTIL)
    p = np.array([found.parameters[each.name] for each in record.model.parameters])
    states = open_loop(record.model, p, record.forcing)
    return found, stretches.past(record.forcing, record.observed, states, record.scored)


def batch_of(settings, found):
    return batches.batch(judging.apart(found), settings)


def test_parts_of_a_record_are_the_same_in_another_period():
    past = stretches.Past(*(torch.zeros(9000, 1),) * 3, starts=np.arange(100, 8000, stretches.STRETCH))
    later = replace(past, starts=past.starts[3:] + 100)
    assert set(past.parts) == {0, 1, 2} and np.array_equal(later.parts, past.parts[3:])
    for part in range(stretches.PARTS):
        kept = past.without(part)
        assert part not in kept.parts and len(kept.starts) == (past.parts != part).sum()


@pytest.mark.parametrize("begin", [0, 460, 700])
def test_no_hour_is_in_two_parts(begin):
    """The last stretch reaches to the end of the record, over hours of the one before."""
    hours = begin + 4000
    nothing, scored = np.zeros((hours, 1)), np.arange(hours) >= begin
    past = stretches.past(nothing, nothing[:, 0], torch.zeros(hours, 1), scored)
    assert 0 < past.starts[-1] - past.starts[-2] < stretches.STRETCH
    of = [{*(start + np.arange(stretches.STRETCH))} for start in past.starts]
    joint = [set().union(*(each for each, own in zip(of, past.parts, strict=True) if own == k)) for k in range(3)]
    assert all(joint) and not any(joint[i] & joint[j] for i in range(3) for j in range(i))
    for first in past.starts[1:]:
        later = past.since(int(first) - stretches.SETTLE)
        assert later.starts[0] == first and np.array_equal(later.parts, past.parts[-later.starts.size :])


def test_a_filter_is_tuned_without_each_part_and_kept_so(known, settings):
    found, past = known
    assert len(found.apart) == stretches.PARTS == len(judging.apart(found))
    stored = json.loads(json.dumps(found.content()))
    assert calibrated.restore(stored) == found
    one = {**stored, "residual_hours": 5.5, "apart": [{**each, "residual_hours": 2.0} for each in stored["apart"]]}
    earlier = calibrated.restore(one)  # as versions with one memory wrote it
    assert earlier.residual_hours == (5.5, 0.0) and {each.residual_hours for each in earlier.apart} == {(2.0, 0.0)}
    spread = {weather: below for weather, (below, _) in stored["spread"].items()}  # the same on both sides
    older = calibrated.restore({key: value for key, value in stored.items() if key != "highest"} | {"spread": spread})
    assert older.highest is None and older.taught == found.taught
    assert all(below == above == found.spread[weather][0] for weather, (below, above) in older.spread.items())
    tuned = {str(each.errors) for each in (found, *found.apart)}
    assert len(tuned) > 1  # by so short a search some may be the same
    alone = replace(found, apart=())
    assert judging.apart(alone) == [alone] and not judging.parts(alone, past).any()
    assert found.fingerprint(settings) == alone.fingerprint(settings)  # forecasts do not depend on them


def test_the_filter_is_judged_in_each_part_by_what_it_was_tuned_to_without(known, settings):
    found, past = known
    apart = tuple(
        replace(own, errors={name: (f * a, f * b) for name, (a, b) in own.errors.items()}, residual_hours=hours)
        for own, f, hours in zip(found.apart, (0.3, 1.0, 4.0), ((0.0, 0.0), (5.0, 0.0), (50.0, 3.0)), strict=True)
    )
    found = replace(found, apart=apart)
    judged = judging.judged(batch_of(settings, found), past, found, AREA)
    issue, square, seen = [], [], []
    for k, own in enumerate(judging.apart(found)):
        part = replace(past, starts=past.starts[judging.parts(found, past) == k])
        batch = batches.batch([own], settings).rows(np.zeros(part.starts.size, np.int64))
        analysed = stretches.analyses(batch, part, stretches.EVERY)
        made = stretches.forecasts(batch, part, analysed, lambda at: past.forcing[at])
        memory = np.tile(own.residual_hours, (made.issue.size, 1))
        forecast = judging.candidates(made, found.correction, AREA, memory)[FILTER]
        issue.append(made.issue)
        square.append((forecast - made.observed) ** 2 / past.variance)
        seen.append(made.observed)
    issue, square, seen = (np.concatenate(each, -1) for each in (issue, square, seen))
    times = judging._times(seen, issue, np.ones(issue.size, bool))
    assert len(times) == 2  # halves, of less than half a year
    expected = np.stack([np.nanmean(square[:, some], 1) for some in times])
    np.testing.assert_allclose(judged.errors[FILTER], expected, rtol=1e-9)
    whole = judging.judged(batch_of(settings, replace(found, apart=())), past, replace(found, apart=()), AREA)
    assert not np.allclose(whole.errors[FILTER], expected, rtol=1e-3)


def test_a_belief_depends_on_model_parameters_errors_and_networks(known, settings):
    found, _ = known
    errors = {name: (2.0 * share, base) for name, (share, base) in found.errors.items()}
    others = (
        {"errors": errors},
        {"parameters": {name: 1.01 * value for name, value in found.parameters.items()}},
        {"model": "other"},
        {"temperature": not found.temperature},
        {"taught": calibrated.Taught("a" * 64, {})},
        {"taught": calibrated.Taught("b" * 64, {})},
    )
    every = [found.fingerprint(settings), *(replace(found, **other).fingerprint(settings) for other in others)]
    assert len(set(every)) == len(every)


def test_a_choice_that_is_not_for_every_lead_is_refused(known):
    stored = json.loads(json.dumps(known[0].content()))
    for names in ([FILTER] * 23, [FILTER] * 23 + ["oracle"]):
        with pytest.raises(ValueError, match="choice for 'observed' is"):
            calibrated.restore(stored | {"choice": {"observed": names}})
    spread = {"none": stored["spread"]["none"]}
    with pytest.raises(ValueError, match="spread holds"):
        calibrated.restore(stored | {"spread": spread})


def test_forecasts_are_judged_in_quarters_of_a_year_or_halves_of_less_with_something_observed_in_each():
    issue = np.tile(np.arange(500, 500 + 8760, 3), 2)  # of two stretches of hours, say
    observed, asked = np.ones((24, issue.size)), np.arange(issue.size) % 5 > 0
    times = judging._times(observed, issue, asked)
    assert len(times) == 4 and np.array_equal(np.sum(times, 0), asked)
    for k, some in enumerate(times):
        assert (issue[some] >= 500 + 2190 * k - 3).all() and (issue[some] < 500 + 2190 * (k + 1) + 3).all()
    observed[7, times[2]] = np.nan
    assert [some.tolist() for some in judging._times(observed, issue, asked)] == [times[k].tolist() for k in (0, 1, 3)]
    early = asked & (issue < 1500)
    one, two = (issue[some] for some in judging._times(observed, issue, early))
    assert one.max() < two.min() <= one.max() + 6 and abs(one.max() - 1000) < 6


def test_what_could_be_issued_is_told_in_runoff_and_corrected_in_discharge():
    """By hand, of two issue times: the filter with two residuals, the open loop with its error, the trend."""
    two, residual, before = np.ones((24, 2)), np.array([0.5, -0.2]), np.array([0.1, 0.3])
    seen, change, modelled = np.array([6.0, 7.0]), np.array([0.4, -0.4]), np.array([4.5, 3.0])
    made = stretches.Forecasts(
        5 * two, two, None, 4 * two, two, np.arange(2), *(seen, change, modelled, residual, before, np.zeros(2, int))
    )
    fitted = correction.Correction((2.0,) * 366, 2.0, 0.5, 0.8, 1.0, 0.0, 0.5, 0.5)
    found = judging.candidates(made, fitted, AREA, np.tile((9.0, 2.0), (2, 1)))
    lead = LEADS[:, None]
    now, earlier = correction.left(LEADS, np.array((9.0, 2.0)))
    np.testing.assert_allclose(found[FILTER], 5.0 + now[:, None] * residual + earlier[:, None] * before)
    np.testing.assert_allclose(found["decaying_error"], 4.0 + np.exp(-lead / 2.0) * (seen - modelled))
    mean = 0.5 * 3.6 / AREA  # of the error, from m³/s
    np.testing.assert_allclose(found["ar1_error"], 4.0 + mean + 0.8**lead * (seen - modelled - mean))
    np.testing.assert_allclose(found[choice.TREND], seen + change * (1.0 - 0.5**lead))


def test_intervals_are_for_what_is_issued_in_floods_too(known, settings):
    found, past = known
    alone = replace(found, apart=(), residual_hours=(30.0, 0.0))
    judged = judging.judged(batch_of(settings, alone), past, alone, AREA)
    batch = batches.batch([alone], settings).rows(np.zeros(past.starts.size, np.int64))
    analysed = stretches.analyses(batch, past, stretches.EVERY)
    made = stretches.forecasts(batch, past, analysed, lambda at: past.forcing[at])
    every = judging.candidates(made, alone.correction, AREA, np.tile(alone.residual_hours, (made.issue.size, 1)))
    flow = choice.blended(every, np.array(judged.choice["observed"])[:, None])
    highest = np.nanmax(past.observed)
    issued = choice.moderated(flow, every, choice.beyond(flow, highest))
    assert (issued != flow).any()
    between = intervals.cuts(issued)
    applied = judged.applied(found)
    assert applied.highest == judged.highest == pytest.approx(m3_per_second(highest, AREA))
    assert applied.spread["observed"] == intervals.factors(issued, made.variance, made.observed, between)
    assert applied.spread["observed"] != intervals.factors(flow, made.variance, made.observed, between)
    assert applied.between == pytest.approx(m3_per_second(np.array(between), AREA))
    assert applied.choice == judged.choice and applied.report == found.report


def test_single_networks_are_judged_as_their_mean_will_do(known, settings):
    """The mean square error of networks, less their variance, is that of their mean, whatever they say."""
    found, past = known
    one = batches.batch([found], settings)
    stores = one.system.stores
    scales = guided.scales(past.states, past.observed, stores)
    weights = designs.design(designs.GAIN).initial(scales, stores, range(3), (6.0, 1.0))
    differ = np.random.default_rng(2).normal(scale=0.02, size=weights["last.weight"].shape)
    weights["last.weight"] += torch.from_numpy(differ)
    alone = replace(found, apart=())
    batch = designs.beside(one, designs.GAIN, [weights])
    hours = len(past.observed)
    each = [judging.judged(batch, past, alone, AREA, np.full(hours, k)).errors for k in range(3)]
    together = judging.judged(batch, past, alone, AREA).errors
    for name in choice.OF_NETWORKS:
        assert not np.allclose(each[0][name], each[1][name], rtol=1e-3)
        np.testing.assert_allclose(np.mean([own[name] for own in each], 0), together[name], rtol=1e-9)
    np.testing.assert_array_equal(each[0][FILTER], together[FILTER])
    assert set(together) == set(choice.METHODS)
