"""Baselines: values by hand, parameters that made the series, the limits they must have."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from hydroda.forecast import correction
from hydroda.forecast.correction import BASELINES, Correction
from hydroda.schema import LEADS
from hydroda.units import HOUR

START = np.datetime64("2001-01-01T01:00", "ns")
BY_HAND = Correction((2.0,) * 366, 2.0, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5)
CORRECTED = ("decaying_error", "ar1_error", "ar1_log_error")


def stamps(count):
    return START + np.arange(count) * HOUR


def autoregressive(count, mean, phi, spread, seed=0):
    noise = np.random.default_rng(seed).normal(0, spread, count)
    series = np.zeros(count)
    for t in range(1, count):
        series[t] = phi * series[t - 1] + noise[t]
    return mean + series


def forecast(name, corrections, open_loop, observed, modelled, age, issue=None, change=0.0):
    """(F, L, S) from plain lists; hourly issue times unless given."""
    open_loop, observed, modelled, age = (np.asarray(a, float) for a in (open_loop, observed, modelled, age))
    issue = stamps(open_loop.shape[0]) if issue is None else issue
    leads = LEADS[: open_loop.shape[1]]
    return correction.apply(name, corrections, issue, leads, open_loop, observed, modelled, age, change)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("persistence", [6.0, 6.0]),
        ("trend", [6 + 0.4 * (0.5 + 0.25), 6 + 0.4 * (0.5 + 0.25 + 0.125)]),  # it rose by 0.4
        ("climatology", [2.0, 2.0]),
        ("open_loop", [3.0, 8.0]),
        ("decaying_error", [3 + 2 * np.exp(-1.0), 8 + 2 * np.exp(-1.5)]),  # error 2, two and three hours old
        ("ar1_error", [3 + 0.5 + 0.25 * 1.5, 8 + 0.5 + 0.125 * 1.5]),
        ("ar1_log_error", [4 * 1.4**0.25 - 1, 9 * 1.4**0.125 - 1]),  # error log (6 + 1)/(4 + 1)
    ],
)
def test_values_by_hand(name, expected):
    found = forecast(name, [BY_HAND], [[[3.0], [8.0]]], [[6.0]], [[4.0]], [[1.0]], change=np.array([[0.4]]))
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-14)


def test_stations_keep_their_own_parameters():
    other = replace(BY_HAND, decay_hours=7.0, error_phi=0.9, log_error_phi=0.9, climatology=(9.0,) * 366)
    random = np.random.default_rng(1)
    open_loop, observed, modelled = (
        random.gamma(2, 3, (5, 3, 2)),
        random.gamma(2, 3, (5, 2)),
        random.gamma(2, 3, (5, 2)),
    )
    age = random.integers(0, 4, (5, 2))
    for name in BASELINES:
        both = forecast(name, [BY_HAND, other], open_loop, observed, modelled, age)
        for s, own in enumerate((BY_HAND, other)):
            alone = forecast(name, [own], *(a[..., s : s + 1] for a in (open_loop, observed, modelled, age)))
            np.testing.assert_array_equal(both[..., s : s + 1], alone)


@pytest.mark.parametrize("name", BASELINES)
def test_without_an_observation_a_correction_is_the_open_loop_and_persistence_is_silent(name):
    open_loop = [[[3.0], [8.0]]]
    for observed, modelled, age in ((np.nan, 4.0, 1.0), (6.0, np.nan, 1.0), (6.0, 4.0, np.nan)):
        found = forecast(name, [BY_HAND], open_loop, [[observed]], [[modelled]], [[age]])[0, :, 0]
        if name == "persistence":
            np.testing.assert_array_equal(found, observed)
        elif name == "trend":  # none, from an observation of which the hour before is not known
            np.testing.assert_array_equal(found, observed if np.isfinite(age) else np.nan)
        elif name == "climatology":
            assert (found == 2.0).all()
        else:
            np.testing.assert_array_equal(found, [3.0, 8.0])


@pytest.mark.parametrize("name", CORRECTED)
def test_only_the_sum_of_age_and_lead_matters_and_an_old_error_is_forgotten(name):
    own = replace(BY_HAND, error_mean=0.0)
    flat = np.full((1, 24, 1), 5.0)
    fresh = forecast(name, [own], flat, [[9.0]], [[6.0]], [[0.0]])
    aged = forecast(name, [own], flat, [[9.0]], [[6.0]], [[3.0]])
    np.testing.assert_allclose(fresh[:, 3:], aged[:, :-3], rtol=1e-14)
    assert (np.diff(fresh[0, :, 0]) < 0).all()
    np.testing.assert_allclose(forecast(name, [own], flat, [[9.0]], [[6.0]], [[500.0]]), 5.0)


@pytest.mark.parametrize("name", CORRECTED)
def test_a_fresh_correction_meets_the_observation_as_the_lead_goes_to_zero(name):
    found = correction.apply(
        name,
        [BY_HAND],
        stamps(1),
        np.array([1e-9]),
        np.full((1, 1, 1), 4.0),
        *(np.array([[v]]) for v in (6.0, 4.0, 0.0)),
    )
    assert found.item() == pytest.approx(6.0)


@pytest.mark.parametrize("name", BASELINES)
def test_discharge_is_never_negative(name):
    own = replace(BY_HAND, error_mean=-5.0, log_error_mean=-5.0, climatology=(-1.0,) * 366)
    found = forecast(name, [own], [[[0.1], [0.0]]], [[0.0]], [[7.0]], [[0.0]])
    assert (found >= 0).all()


def test_the_parameters_that_made_a_series_are_found_again():
    count = 40_000
    open_loop = np.full(count, 30.0)
    fitted = correction.fit("a", stamps(count), open_loop + autoregressive(count, 1.5, 0.93, 0.4), open_loop)
    assert fitted.error_mean == pytest.approx(1.5, abs=0.1)
    assert fitted.error_phi == pytest.approx(0.93, abs=0.01)
    assert fitted.log_offset == pytest.approx(3.0 * 31.5, rel=0.01)  # errors add
    swing = 30.0 * np.exp(np.sin(np.arange(count) / 50.0))
    multiplied = swing * np.exp(autoregressive(count, -0.2, 0.97, 0.02))
    fitted = correction.fit("a", stamps(count), multiplied, swing)
    assert fitted.log_offset < 0.05 * multiplied.mean()  # errors multiply
    assert fitted.log_error_phi == pytest.approx(0.97, abs=0.01)
    assert fitted.log_error_mean == pytest.approx(-0.2, abs=0.015)
    centred = correction.fit("a", stamps(count), open_loop + autoregressive(count, 0.0, 0.93, 0.4), open_loop)
    rising = correction.fit("a", stamps(count), 9.0 + autoregressive(count, 0.0, 0.8, 0.01).cumsum(), open_loop)
    assert rising.trend_phi == pytest.approx(0.8, abs=0.01)
    noise = np.random.default_rng(4).gamma(4.0, 2.0, count)  # what rises falls again
    assert correction.fit("a", stamps(count), noise, open_loop).trend_phi == 0.0
    steady = correction.fit("a", stamps(count), 9.0 + np.arange(count), open_loop)
    assert 0.999 < steady.trend_phi < 1.0
    assert centred.decay_hours == pytest.approx(-1 / np.log(0.93), rel=0.15)


@pytest.mark.parametrize("phi", [0.0, 0.7, 0.97])
def test_the_fitted_decay_is_the_best_in_a_plain_loop_over_forecasts(phi):
    count = 2000
    open_loop = np.random.default_rng(5).gamma(4, 3, count)
    error = autoregressive(count, 0.3, phi, 0.5, seed=2)
    error[700:760] = np.nan
    fitted = correction.fit("a", stamps(count), open_loop + error, open_loop).decay_hours

    def cost(tau):
        total = 0.0
        for lead in LEADS:
            for t in range(count - lead):
                miss = error[t + lead] - np.exp(-lead / tau) * error[t]
                total += 0.0 if np.isnan(miss) else miss**2
        return total

    best = cost(fitted)
    assert all(best <= cost(fitted * factor) + 1e-9 for factor in (0.8, 0.97, 1.03, 1.25))


@pytest.mark.parametrize(("added", "spread", "phi"), [(0.5, 0.02, 0.9), (0.2, 0.2, 0.8), (0.02, 0.05, 0.95)])
def test_the_fitted_offset_is_the_best_of_forecasts_from_every_hour(added, spread, phi):
    """Of what is issued, with the mean and the lag-1 coefficient of the error of logarithms of that offset."""
    count = 1500
    open_loop = 3.0 + 2.5 * np.sin(np.arange(count) / 40.0)
    observed = open_loop * np.exp(autoregressive(count, 0.2, phi, spread, seed=3))
    observed = np.maximum(observed + autoregressive(count, 0.0, phi, added, seed=4), 0.0)
    observed[300:330] = np.nan
    fitted = correction.fit("a", stamps(count), observed, open_loop)
    issue = np.arange(count - LEADS[-1])
    truth = observed[issue[:, None] + LEADS]
    found = {}
    for share in correction.OFFSETS:
        offset = share * np.nanmean(observed)
        error = np.log((observed + offset) / (open_loop + offset))
        mean = np.nanmean(error)
        pairs = np.nan_to_num((error[:-1] - mean) * (error[1:] - mean))
        square = np.where(np.isfinite(error[1:]), error[:-1] - mean, np.nan)
        own = replace(fitted, log_offset=offset, log_error_mean=mean, log_error_phi=pairs.sum() / np.nansum(square**2))
        ahead = open_loop[issue[:, None] + LEADS][..., None]
        newest = (each[issue, None] for each in (observed, open_loop, np.zeros(count)))
        made = correction.apply("ar1_log_error", [own], stamps(issue.size), LEADS, ahead, *newest)[..., 0]
        seen = np.isfinite(observed[issue])  # without an observation there is no error to forecast with
        found[offset] = np.log(np.nanmean((made - truth)[seen] ** 2, 0)).mean()
    assert fitted.log_offset == pytest.approx(min(found, key=found.__getitem__))


def test_errors_that_never_fade_decay_as_slowly_as_allowed():
    count = 1000
    open_loop = np.random.default_rng(5).gamma(4, 3, count)
    fitted = correction.fit("a", stamps(count), open_loop + 2.0, open_loop)
    assert fitted.decay_hours == pytest.approx(correction.TAU_RANGE[1], rel=1e-3)
    assert fitted.error_mean == pytest.approx(2.0)
    assert 0 <= fitted.error_phi < 1


def test_climatology_is_a_mean_of_thirty_one_days():
    time = stamps(4 * 365 * 24)
    day = (time - HOUR).astype("datetime64[D]")
    observed = np.where(day == np.datetime64("2002-07-01"), 31.0, 0.0)
    table = np.array(correction.fit("a", time, observed, observed).climatology)
    july = correction.day_of_year(np.array(["2004-07-01T12"], "datetime64[ns]"))[0]
    expected = np.zeros(366)
    expected[july - 15 : july + 16] = 1 / 4  # one day in 31, one year in four
    leap = correction.day_of_year(np.array(["2004-02-29T12"], "datetime64[ns]"))[0]
    assert leap == 59
    np.testing.assert_allclose(table, expected, atol=1e-12)


def test_climatology_goes_round_the_new_year_and_fills_days_never_seen():
    time = stamps(40 * 24)  # 1 January to 9 February
    observed = np.where(time < START + 20 * 24 * HOUR, 8.0, 2.0)
    table = correction.fit("a", time, observed, observed).climatology
    assert table[365] == 8.0  # 15 days after 31 December lie in the first 20 of January
    assert table[200] == pytest.approx(5.0)


def test_the_day_is_the_one_in_which_the_hour_began():
    times = np.array(
        ["2001-01-01T00:00", "2001-01-01T01:00", "2001-03-01T01:00", "2004-03-01T01:00", "2004-12-31T12:00"],
        "datetime64[ns]",
    )
    assert correction.day_of_year(times).tolist() == [365, 0, 60, 60, 365]


def test_climatology_follows_the_valid_time_not_the_issue_time():
    own = replace(BY_HAND, climatology=tuple(float(d) for d in range(366)))
    issue = np.array(["2001-01-10T22:00"], "datetime64[ns]")
    found = forecast("climatology", [own], np.zeros((1, 4, 1)), [[np.nan]], [[np.nan]], [[np.nan]], issue)
    assert found[0, :, 0].tolist() == [9.0, 9.0, 10.0, 10.0]


def test_a_fit_survives_json():
    random = np.random.default_rng(0)
    observed, open_loop = random.gamma(2, 3, 1000), random.gamma(2, 3, 1000)
    fitted = correction.fit("a", stamps(1000), observed, open_loop)
    content = json.loads(json.dumps(asdict(fitted), allow_nan=False))
    assert correction.restore(content) == fitted


def test_a_dry_river_and_gaps_give_finite_parameters():
    observed = np.zeros(1500)
    observed[::2] = np.nan  # no two hours in a row
    fitted = correction.fit("a", stamps(1500), observed, np.zeros(1500))
    assert np.isfinite([v for v in asdict(fitted).values() if isinstance(v, float)]).all()
    assert fitted.error_phi == 0.0
    assert (np.array(fitted.climatology) == 0).all()


def test_too_little_data_a_hole_in_time_and_an_unknown_name_are_refused_in_words():
    observed = np.ones(800)
    observed[:100] = np.nan
    with pytest.raises(ValueError, match=r"ach: only 700 hours .* 720 \(30 days\).*longer calibration"):
        correction.fit("ach", stamps(800), observed, np.ones(800))
    holed = np.delete(stamps(801), 400)
    with pytest.raises(ValueError, match="ach: stamps are not hourly"):
        correction.fit("ach", holed, np.ones(800), np.ones(800))
    with pytest.raises(ValueError, match="800 stamps"):
        correction.fit("ach", stamps(800), np.ones(800), np.ones(799))
    with pytest.raises(KeyError, match=r"no baseline 'magic'; there are persistence"):
        forecast("magic", [BY_HAND], [[[1.0]]], [[1.0]], [[1.0]], [[0.0]])
