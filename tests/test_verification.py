"""Scores: values by hand, a plain-loop second opinion, one sample for all methods, and nothing known too early."""

import json

import numpy as np
import pytest
import xarray as xr
from scores.probability import crps_for_ensemble

from hydroda.forecast import correction, predictive
from hydroda.forecast.correction import BASELINES, Correction
from hydroda.pages import score_tables
from hydroda.schema import LEADS, QUANTILES, quantile_name
from hydroda.units import HOUR
from hydroda.verifying import verification
from hydroda.verifying.verification import BY_METHOD, METHODS

START = np.datetime64("2003-01-31T20:00", "ns")
ATTRS = {"domain": "demo", "forcing": "observed", "model": "hbv.hourly", "filter": "sigma.ukf"}
STATIONS = ("alder", "birch-2", "cedar_3")
HALVED = Correction((5.0,) * 366, 3.0, 0.1, 0.8, 0.05, 0.02, 0.9, 0.6)


def archive(issue, median, spread, open_loop, observed_at_issue, open_loop_at_issue, stations, dtype="f8", **attrs):
    """As hindcasts write it; median (F, L, S) and spread, of both sides or (2, F, L, S)."""
    dims = verification.DIMS
    sides = np.broadcast_to(spread, (2, *median.shape))
    laws = {quantile_name(level): predictive.quantile(median, sides, level) for level in QUANTILES}
    columns = {"discharge": median, **laws, "discharge_open_loop": open_loop}
    ds = xr.Dataset({name: (dims, np.asarray(values, dtype)) for name, values in columns.items()})
    change = np.diff(observed_at_issue, axis=0, prepend=np.nan)
    at_issue = {
        "observed_at_issue": observed_at_issue,
        verification.CHANGE: change,
        "open_loop_at_issue": open_loop_at_issue,
    }
    for name, values in at_issue.items():
        ds[name] = ((dims[0], dims[2]), np.asarray(values, dtype))
    leads = np.arange(1, median.shape[1] + 1)
    return ds.assign_coords(dict(zip(dims, (issue, leads, list(stations)), strict=True))).assign_attrs(
        {**ATTRS, **attrs}
    )


def observations(time, values, stations):
    return xr.DataArray(np.asarray(values, float), {"time": time, "station": list(stations)}, ("time", "station"))


@pytest.fixture(scope="module")
def real():
    """Ten days at three stations with gaps everywhere: archive, observations, baselines."""
    random, count = np.random.default_rng(7), 240
    time = START + np.arange(count + 24) * HOUR
    swing = 1 + 0.5 * np.sin(np.arange(count + 24) / 9)
    truth = swing[:, None] * np.exp(0.1 * random.normal(size=(count + 24, 3)).cumsum(axis=0)) * [5.0, 40.0, 0.6]
    ahead = np.arange(count)[:, None] + LEADS
    spread = np.broadcast_to(0.05 * np.sqrt(LEADS)[:, None], (count, 24, 3)).copy()
    median = truth[ahead] * np.exp(spread * random.normal(size=(count, 24, 3)))
    open_loop = truth * 1.2 + 0.1
    observed = np.where(random.random(truth.shape) < 0.05, np.nan, truth)
    median[random.random(median.shape) < 0.01] = np.nan
    median[40:43, :, 1] = np.nan
    ds = archive(
        time[:count],
        median,
        np.stack((0.8 * spread, 1.3 * spread)),
        open_loop[ahead],
        observed[:count],
        open_loop[:count],
        STATIONS,
        dtype="f4",
    )
    return ds, observations(time, observed, STATIONS), dict.fromkeys(STATIONS, HALVED)


@pytest.fixture(scope="module")
def scores(real):
    ds, observed, fitted = real
    return verification.verify([ds], observed, fitted)


def one(median, truth, spread=0.2, open_loop=None, at_issue=None):
    """Scores of one station and lead: `truth` are the observations after each of the hourly issue times."""
    median, truth = np.asarray(median, float), np.asarray(truth, float)
    issue = START + np.arange(truth.size) * HOUR
    open_loop = np.full(truth.size, 3.0) if open_loop is None else np.asarray(open_loop, float)
    at_issue = np.full(truth.size, 3.0) if at_issue is None else np.asarray(at_issue, float)
    ds = archive(
        issue,
        median[:, None, None],
        np.reshape(spread, (-1, 1, 1, 1)),
        open_loop[:, None, None],
        at_issue[:, None],
        np.full((truth.size, 1), 3.0),
        ("alder",),
    )
    observed = observations(issue + HOUR, truth[:, None], ("alder",))
    return verification.verify([ds], observed, {"alder": HALVED}).isel(forecast_period=0, station=0)


def values(scores, method="forecast"):
    return {name: float(scores[name].sel({"method": method})) for name in BY_METHOD}


# --- by hand -------------------------------------------------------------------------------------------------------


def test_values_by_hand():
    found = values(one([2.0, 4.0, 3.0], [1.0, 3.0, 5.0], at_issue=[2.0, 2.0, 2.0]))
    assert found["nse"] == pytest.approx(1 - 6 / 8)
    assert found["rmse"] == pytest.approx(np.sqrt(2))
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["bias"] == pytest.approx(0.0)
    assert found["pbias"] == pytest.approx(0.0)
    assert found["persistence_skill"] == pytest.approx(1 - 6 / 11)  # persistence misses by 1, 1 and 3
    # correlation of (−1, 1, 0) with (−2, 0, 2) is 1/2, coefficients of variation 1 to 2, means equal
    assert found["kge"] == pytest.approx(1 - np.sqrt(0.25 + 0.25))


def test_the_kling_gupta_efficiency_is_that_of_2012():
    """Twice the flow: the coefficient of variation is right, so only the mean counts (2009: the deviation too)."""
    assert values(one([2.0, 6.0, 10.0], [1.0, 3.0, 5.0]))["kge"] == pytest.approx(0.0)


def test_a_perfect_forecast_is_perfect():
    scores = one([1.0, 3.0, 5.0], [1.0, 3.0, 5.0], spread=1e-9)
    for name, value in values(scores).items():
        assert value == pytest.approx(BY_METHOD[name].perfect, abs=1e-7), name
    assert scores.coverage_90 == 100
    assert scores.coverage_50 == 100
    assert scores.width_90 < 1e-7


def test_a_shift_moves_the_bias_and_nothing_that_should_not_move():
    random = np.random.default_rng(3)
    truth = random.gamma(3, 4, 50) + 5
    median = truth * np.exp(random.normal(0, 0.1, 50)) - 0.5
    before, after = values(one(median, truth)), values(one(median + 2, truth))
    assert after["bias"] == pytest.approx(before["bias"] + 2)
    assert after["pbias"] == pytest.approx(before["pbias"] + 100 * 2 / truth.mean())
    # The error without its mean, and so its variance, stays.
    assert after["rmse"] ** 2 - after["bias"] ** 2 == pytest.approx(before["rmse"] ** 2 - before["bias"] ** 2)
    variance = np.square(truth - truth.mean()).mean()
    assert after["nse"] == pytest.approx(before["nse"] - (after["bias"] ** 2 - before["bias"] ** 2) / variance)
    for name in BASELINES:
        same = values(one(median, truth), name), values(one(median + 2, truth), name)
        assert same[0] == pytest.approx(same[1], rel=0, abs=0, nan_ok=True)


def test_both_shifted_moves_no_error():
    random = np.random.default_rng(3)
    truth, median = random.gamma(3, 4, 50), random.gamma(3, 4, 50)
    before, after = values(one(median, truth)), values(one(median + 7, truth + 7))
    for name in ("nse", "rmse", "mae", "bias"):
        assert after[name] == pytest.approx(before[name]), name
    assert abs(after["pbias"]) < abs(before["pbias"])


def test_intervals_count_what_they_hold():
    low, quarter, half, three, high = (float(predictive.quantile(10.0, (0.5, 0.7), level)) for level in QUANTILES)
    truth = [low - 0.01, low + 0.01, quarter + 0.01, half, three + 0.01, high + 0.01, quarter, high]
    scores = one([10.0] * 8, truth, spread=(0.5, 0.7))
    assert scores.coverage_90 == pytest.approx(100 * 6 / 8)
    assert scores.coverage_50 == pytest.approx(100 * 3 / 8)
    assert scores.width_90 == pytest.approx(high - low)
    assert scores.width_50 == pytest.approx(three - quarter)


def test_hits_of_the_highest_flows_are_those_of_their_twentieth():
    """Of 1 … 100 the 95 % quantile is 95.05: of 96 … 100 the last two are missed."""
    truth = np.arange(1.0, 101.0)
    scores = one(np.where(truth >= 99, 1.0, truth), truth, spread=0.1)
    assert scores.coverage_90 == 98 and scores.coverage_90_high == pytest.approx(60)
    gap = one(np.where(truth >= 99, 1.0, truth), np.where(truth == 100, np.nan, truth), spread=0.1)
    assert gap.coverage_90 == pytest.approx(100 * 98 / 99) and gap.coverage_90_high == pytest.approx(80)  # 95 … 99


@pytest.mark.parametrize("spread", [(0.4, 0.4), (0.2, 0.9), (0.8, 0.3)])
def test_a_law_is_exceeded_at_its_quantiles_as_often_as_they_say_and_read_back_from_two(spread):
    median, sides = np.array([0.3, 12.0]), np.array(spread)[:, None] * np.ones(2)
    bounds = [predictive.quantile(median, sides, level) for level in QUANTILES]
    assert (np.diff(bounds, axis=0) > 0.0).all() and np.array_equal(bounds[2], median)
    for level, bound in zip(QUANTILES, bounds, strict=True):
        np.testing.assert_allclose(predictive.exceedance(median, sides, bound), 1.0 - level, rtol=1e-12)
    np.testing.assert_allclose(predictive.spreads(median, bounds[0], bounds[-1], 0.05, 0.95), sides, rtol=1e-12)


@pytest.mark.parametrize("spread", [(0.4, 0.4), (0.2, 0.9), (0.8, 0.3)])
def test_crps_is_that_of_an_ensemble_of_quantiles(spread):
    random = np.random.default_rng(11)
    median, truth = random.gamma(3, 4, 40), random.gamma(3, 4, 40)
    levels = (np.arange(4000) + 0.5) / 4000
    law = np.stack([predictive.quantile(median, spread, level) for level in levels], -1)
    members = xr.DataArray(law, dims=("issue", "member"))
    expected = crps_for_ensemble(members, xr.DataArray(truth, dims="issue"), "member", method="ecdf").item()
    scores = one(median, truth, spread)
    assert values(scores)["crps"] == pytest.approx(expected, rel=1e-4)
    assert values(scores)["crps"] < values(scores)["mae"]
    for name in BASELINES:
        assert values(scores, name)["crps"] == pytest.approx(values(scores, name)["mae"])


def test_a_law_without_spread_or_a_dry_river_is_scored_as_a_value():
    assert values(one([2.0, 4.0], [1.0, 3.0], spread=0.0))["crps"] == pytest.approx(1.0)
    dry = values(one([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], spread=0.3))
    alone = float(predictive.crps(np.array(1.0), (0.3, 0.3), np.array(0.0)))
    assert dry["crps"] == pytest.approx((0.0 + 1.0 + alone) / 3)


def test_what_has_no_score_is_missing_and_not_infinite():
    constant = one([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert np.isnan(values(constant)["nse"])
    assert values(constant)["rmse"] > 0
    empty = one([1.0, 2.0], [np.nan, np.nan])
    assert all(np.isnan(value) for value in values(empty).values())
    assert (int(empty.n), int(empty.n_unobserved), int(empty.n_incomplete)) == (0, 2, 0)


# --- the sample ----------------------------------------------------------------------------------------------------


def test_every_method_is_scored_on_the_same_hours():
    truth = [1.0, 3.0, 5.0, 100.0, 200.0, 300.0]
    at_issue = [1.0, 1.0, 1.0, np.nan, 1.0, 1.0]  # no persistence for the fourth
    median = [2.0, 4.0, 3.0, 7.0, np.nan, 9.0]  # no forecast for the fifth
    truth[5] = np.nan
    mixed, clean = one(median, truth, at_issue=at_issue), one(median[:3], truth[:3], at_issue=at_issue[:3])
    for method in METHODS:
        assert values(mixed, method) == pytest.approx(values(clean, method), nan_ok=True), method
    assert (int(mixed.n), int(mixed.n_unobserved), int(mixed.n_incomplete)) == (3, 1, 2)


def test_a_missing_quantile_leaves_the_forecast_out(real):
    ds, observed, fitted = real
    holed = ds.copy(deep=True)
    holed["discharge_q25"].loc[{"forecast_period": 5, "station": "alder"}] = np.nan
    scores = verification.verify([holed], observed, fitted)
    assert scores.n.sel(forecast_period=5, station="alder") == 0
    assert scores.n.sel(forecast_period=6, station="alder") > 150


def test_an_outage_at_one_station_leaves_the_others_alone(real, scores):
    ds, observed, fitted = real
    out = observed.copy(deep=True)
    out.loc[{"station": "alder"}] = np.nan
    found = verification.verify([ds], out, fitted)
    xr.testing.assert_identical(found.isel(station=[1, 2]), scores.isel(station=[1, 2]))
    assert (found.n.sel(station="alder") == 0).all()


def test_observations_that_end_early_are_missing_not_wrapped_around(real):
    """The last issue times have no verifying observation at long leads; index −1 must not stand in for them."""
    ds, observed, fitted = real
    short = observed.isel(time=slice(0, 240))
    scores = verification.verify([ds], short, fitted).sel(station="alder")
    gaps = int(np.isnan(short.sel(station="alder")).sum())
    assert int(scores.n_unobserved.sel(forecast_period=24)) >= 24
    assert int(scores.n_unobserved.sel(forecast_period=24)) <= 24 + gaps
    total = scores.n + scores.n_unobserved + scores.n_incomplete
    assert (total == 240).all()


def test_scores_equal_a_plain_loop(real, scores):
    ds, observed, fitted = real
    for s, station in enumerate(STATIONS):
        truth_at = dict(zip(observed.time.values, observed.values[:, s], strict=True))
        for lead in (1, 7, 24):
            pairs = {method: [] for method in METHODS}
            inside, crps = [], []
            for i, issue in enumerate(ds.forecast_reference_time.values):
                at = {name: float(ds[name].values[i, lead - 1, s]) for name in verification.SERIES[:6]}
                o, m = float(ds.observed_at_issue.values[i, s]), float(ds.open_loop_at_issue.values[i, s])
                rise = float(ds[verification.CHANGE].values[i, s])
                y = truth_at.get(issue + lead * HOUR, np.nan)
                if np.isnan([*at.values(), o, m, y]).any():
                    continue
                ol, c = at["discharge_open_loop"], fitted[station]
                log_error = np.log((o + c.log_offset) / (m + c.log_offset)) - c.log_error_mean
                by = {
                    "forecast": at["discharge"],
                    "persistence": o,
                    "trend": o + (0.0 if np.isnan(rise) else 1.5 * (1 - 0.6**lead) * rise),
                    "climatology": 5.0,
                    "open_loop": ol,
                    "decaying_error": ol + np.exp(-lead / c.decay_hours) * (o - m),
                    "ar1_error": ol + c.error_mean + c.error_phi**lead * (o - m - c.error_mean),
                    "ar1_log_error": (ol + c.log_offset) * np.exp(c.log_error_mean + c.log_error_phi**lead * log_error)
                    - c.log_offset,
                }
                for method, f in by.items():
                    pairs[method].append((max(f, 0.0), y))
                inside.append(at["discharge_q05"] <= y <= at["discharge_q95"])
                below, above = (abs(np.log(at[name] / at["discharge"])) for name in ("discharge_q05", "discharge_q95"))
                law = below / 1.6448536269514722, above / 1.6448536269514722
                crps.append(float(predictive.crps(at["discharge"], law, y)))
            of = scores.sel(station=station, forecast_period=lead)
            assert of.n == len(inside) > 150
            assert of.coverage_90 == pytest.approx(100 * np.mean(inside))
            assert values(of)["crps"] == pytest.approx(np.mean(crps))
            reference = np.mean([(f - y) ** 2 for f, y in pairs["persistence"]])
            for method in METHODS:
                f, y = np.array(pairs[method]).T
                found = values(of, method)
                square = np.mean((f - y) ** 2)
                assert found["rmse"] == pytest.approx(np.sqrt(square)), (method, lead)
                assert found["nse"] == pytest.approx(1 - square / np.mean((y - y.mean()) ** 2))
                assert found["bias"] == pytest.approx(np.mean(f - y), abs=1e-9)
                assert found["persistence_skill"] == pytest.approx(1 - square / reference, abs=1e-9)
                if method != "climatology":  # constant here: no correlation
                    r, beta = np.corrcoef(f, y)[0, 1], f.mean() / y.mean()
                    gamma = (f.std() / f.mean()) / (y.std() / y.mean())
                    expected = 1 - np.sqrt((r - 1) ** 2 + (gamma - 1) ** 2 + (beta - 1) ** 2)
                    assert found["kge"] == pytest.approx(expected)


# --- time ----------------------------------------------------------------------------------------------------------


def test_persistence_is_what_was_known_at_issue_time_not_what_came_later():
    """The gauge's value of the issue hour arrives late (or is revised): scores must not use it."""
    truth = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    known = [1.0, 1.0, 2.0, 4.0, 8.0]  # always an hour old, though the observation of the hour exists by now
    issue = START + np.arange(5) * HOUR
    flat = np.full((5, 1, 1), 3.0)
    ds = archive(issue, flat, flat * 0 + 0.2, flat, np.array(known)[:, None], flat[:, 0], ("alder",))
    record = observations(START + np.arange(6) * HOUR, np.array([0.9, *truth])[:, None], ("alder",))
    scores = verification.verify([ds], record, {"alder": HALVED}).isel(forecast_period=0, station=0)
    assert values(scores, "persistence")["rmse"] == pytest.approx(np.sqrt(np.mean((known - truth) ** 2)))
    # and changing every observation at and before issue times that verifies nothing changes no score
    record.values[0] = 1e6
    again = verification.verify([ds], record, {"alder": HALVED}).isel(forecast_period=0, station=0)
    xr.testing.assert_identical(again, scores)


def test_an_old_observation_corrects_less(real):
    ds, observed, fitted = real
    fresh = verification.verify([ds.assign(observation_age=xr.zeros_like(ds.observed_at_issue))], observed, fitted)
    aged = verification.verify([ds.assign(observation_age=xr.full_like(ds.observed_at_issue, 4))], observed, fitted)
    xr.testing.assert_identical(fresh, verification.verify([ds], observed, fitted))
    of = [s.bias.sel({"method": "decaying_error", "station": "birch-2"}) for s in (fresh, aged)]
    np.testing.assert_array_less(of[0].values[:12], of[1].values[:12])  # more of the 20 % too much is left
    forecasts = [s.rmse.sel({"method": "forecast"}).values for s in (fresh, aged)]
    np.testing.assert_array_equal(*forecasts)


def test_months_pooled_are_the_whole_in_any_order(real, scores):
    ds, observed, fitted = real
    months = [month for _, month in ds.groupby("forecast_reference_time.month")]
    assert len(months) == 2
    for parts in (months, months[::-1], iter(months)):
        xr.testing.assert_identical(verification.verify(parts, observed, fitted), scores)


def test_a_station_that_joined_later_is_scored_from_then_on(real, scores):
    ds, observed, fitted = real
    early, late = ds.isel(forecast_reference_time=slice(0, 100)), ds.isel(forecast_reference_time=slice(100, None))
    found = verification.verify([early.drop_sel(station="cedar_3"), late], observed, fitted)
    alone = verification.verify([late], observed, fitted)
    for name in (*BY_METHOD, "n"):
        np.testing.assert_allclose(found[name].sel(station="cedar_3"), alone[name].sel(station="cedar_3"))
        np.testing.assert_allclose(found[name].sel(station="alder"), scores[name].sel(station="alder"))
    assert (found.n_incomplete + found.n_unobserved + found.n == 240).all()


def test_archives_that_do_not_belong_together_are_refused(real):
    ds, observed, fitted = real
    half = ds.isel(forecast_reference_time=slice(0, 100)), ds.isel(forecast_reference_time=slice(100, None))
    with pytest.raises(ValueError, match="differ in forcing: 'observed' and 'none'"):
        verification.verify([half[0], half[1].assign_attrs(forcing="none")], observed, fitted)
    with pytest.raises(ValueError, match=r"2003-01-31T20:00Z more than once"):
        verification.verify([ds, half[0]], observed, fitted)
    with pytest.raises(ValueError, match="no archives"):
        verification.verify([], observed, fitted)
    with pytest.raises(ValueError, match="hold no forecasts"):
        verification.verify([ds.isel(forecast_reference_time=slice(0, 0))], observed, fitted)
    with pytest.raises(KeyError, match=r"no fitted baselines for alder, birch-2, which"):
        verification.verify([ds], observed, {"cedar_3": HALVED})
    with pytest.raises(KeyError, match=r"no observed discharge for cedar_3"):
        verification.verify([ds], observed.isel(station=[0, 1]), fitted)


# --- what is written and shown -------------------------------------------------------------------------------------


def test_the_summary_is_json_and_says_the_same(scores):
    content = json.loads(json.dumps(score_tables.summary_json(scores), allow_nan=False))
    assert content["forcing"] == "observed"
    assert content["first_issue"] == "2003-01-31T20:00Z"
    assert content["leads"] == LEADS.tolist()
    of = content["stations"]["birch-2"]
    assert of["n"] == scores.n.sel(station="birch-2").values.tolist()
    expected = scores.nse.sel({"station": "birch-2", "method": "ar1_error"}).values
    np.testing.assert_allclose(of["methods"]["ar1_error"]["nse"], expected, rtol=1e-5)
    assert of["methods"]["climatology"]["kge"] == [None] * 24  # a constant has none


def test_the_table_shows_what_there_is_and_marks_the_best(scores):
    lines = score_tables.table(scores).splitlines()
    assert "2003-01-31T20:00Z to 2003-02-10T19:00Z" in lines[1]
    assert "perfect foresight" in lines[2]
    block = lines[lines.index("alder") : lines.index("birch-2")]
    n = scores.n.sel(station="alder")
    assert block[1].startswith(f"{int(n.min())} to {int(n.max())} of 240 forecasts")
    assert block[2].split() == ["lead", "[h]", "1", "2", "3", "6", "9", "12", "18", "24"]
    rows = {line[:26].strip(): line[26:].split() for line in block[3:-1] if line}
    assert list(rows) == [
        *(verification.LABELS[method] for method in METHODS),
        "% inside the 90 % interval",
        "… of the 5 % highest",
    ]
    for column, lead in enumerate(verification.SHOWN):
        nse = scores.nse.sel(station="alder", forecast_period=lead)
        for method in METHODS:
            cell = rows[verification.LABELS[method]][column]
            value = float(nse.sel({"method": method}))
            assert float(cell.rstrip("*")) == pytest.approx(value, abs=6e-4, rel=6e-3)
            assert cell.endswith("*") == (value == float(nse.max()))
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("score", BY_METHOD)
def test_a_table_of_every_score_and_all_leads(scores, score):
    text = score_tables.table(scores, score, all_leads=True)
    header = next(line for line in text.splitlines() if line.startswith("lead [h]"))
    assert header.split()[2:] == [str(lead) for lead in LEADS]
    assert "nan" not in text
    assert "-0.0 " not in text
    marked = score_tables.best(scores[score])
    assert (marked.sum("method") >= 1).all()
    if score == "pbias":  # the best is the one nearest to none, not the lowest
        lowest = scores[score].isel(station=0, forecast_period=0)
        assert np.argmin(abs(lowest.values)) == np.argmax(marked.isel(station=0, forecast_period=0).values)


def test_a_table_of_nothing_and_of_a_score_there_is_not():
    empty = one([1.0, 2.0], [np.nan, np.nan]).expand_dims(["forecast_period", "station"])
    assert "0 of 2 forecasts" in score_tables.table(empty)
    assert "*" not in score_tables.table(empty).split("alder")[1]
    with pytest.raises(KeyError, match="no score 'fun' by method; there are nse, kge"):
        score_tables.table(empty, "fun")


def test_baselines_are_those_of_correction(real, scores):
    """Every method of the scores is a baseline that can be fitted to the record and applied."""
    assert METHODS[1:] == correction.BASELINES == BASELINES
    assert list(scores.method.values) == list(METHODS) == [m for m in verification.LABELS if m not in verification.OWN]
