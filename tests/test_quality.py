"""Quality tests: series that must fail each of them, and floods that must not."""

import os
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ioos_qc import qartod

from hydroda.quality import CONTEXT, TESTS, Limits, aggregate, flags, limits_from, range_flags
from hydroda.schema import VARIABLES

PASS, NOT_EVALUATED, SUSPECT, FAIL, MISSING = 1, 2, 3, 4, 9
REAL = Path(os.environ.get("HYDRODA_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = {"dornbirnerach": 114.8, "horte": 157.0, "l0123003": 920.0, "posina": 111.5, "wye": 10.6}


def river(n=3000, seed=1):
    """A made-up river: a quick and a slow store, a storm every few days, three digits as gauges give them (n,)."""
    rng = np.random.default_rng(seed)
    rain = np.where(rng.random(n) < 0.01, rng.exponential(4.0, n), 0.0)
    rain = np.convolve(rain, [0.1, 0.3, 0.3, 0.2, 0.1])[:n]
    q = np.empty(n)
    quick, slow = 1.0, 3.0
    for i in range(n):
        quick = 0.95 * quick + 0.7 * rain[i]
        slow = 0.998 * slow + 0.1 * rain[i]
        q[i] = quick + slow
    return np.round(q, 2)


HISTORY = river(9000)
LIMITS = limits_from(HISTORY, 100.0)


def judged(values, provisional=False, limits=LIMITS):
    """(flags per test, aggregate), both for a single station (n,)."""
    verdict = flags(np.asarray(values, float)[:, None], [limits], provisional)
    return {name: flag[:, 0] for name, flag in verdict.items()}, aggregate(verdict)[:, 0]


def quiet(n=400, level=6.0):
    """A slow recession that no test minds."""
    return level * 0.9995 ** np.arange(n)


def test_an_ordinary_river_passes():
    verdict, total = judged(river(3000, seed=2))
    assert set(verdict) == set(TESTS)
    assert (total == FAIL).sum() == 0 and (total == SUSPECT).mean() < 0.002
    assert all(flag.dtype == np.int8 for flag in verdict.values()) and total.dtype == np.int8


def test_a_missing_hour_is_missing_and_nothing_else():
    q = quiet()
    q[[100, 101, 250]] = np.nan
    verdict, total = judged(q)
    assert np.flatnonzero(total == MISSING).tolist() == [100, 101, 250]
    assert all((flag[[100, 101, 250]] == MISSING).all() for flag in verdict.values())
    assert (np.delete(total, [100, 101, 250]) == PASS).all()


@pytest.mark.parametrize("value", [-999.0, -9999.0, -999999.0, -0.01])
def test_sentinels_and_negative_flow_fail_and_spoil_no_neighbour(value):
    q = quiet()
    q[200] = value
    verdict, total = judged(q)
    assert verdict["negative"][200] == FAIL
    assert np.flatnonzero(total != PASS).tolist() == [200]


def test_an_absurd_flow_fails_and_a_flow_never_seen_is_suspect():
    q = quiet()
    q[200:] = 1e6
    q[300:] = 6 * HISTORY.max()
    verdict, _ = judged(q)
    assert (verdict["gross_range"][200:300] == FAIL).all()
    assert (verdict["gross_range"][300:] == SUSPECT).all()


def test_a_lone_spike_is_suspect_when_new_and_fails_when_its_neighbour_is_there():
    q = quiet()
    q[200] = 150.0
    assert judged(q[:201])[1][200] == SUSPECT
    _, total = judged(q[:202])
    assert (total[200], total[201]) == (FAIL, PASS)
    _, total = judged(q)
    assert np.flatnonzero(total != PASS).tolist() == [200]


def test_a_lone_dip_fails():
    q = quiet()
    q[200] = 0.5
    _, total = judged(q)
    assert np.flatnonzero(total == FAIL).tolist() == [200]


def test_a_flash_flood_of_unheard_of_steepness_is_accepted_one_hour_later():
    q = quiet()
    q[200:] = 3 * HISTORY.max() * 0.9 ** np.arange(200) + quiet(200)  # from 5 to three times the record in an hour
    _, total = judged(q[:201])
    assert total[200] == SUSPECT
    _, total = judged(q[:202])
    assert (total[200:202] == PASS).all()
    assert (judged(q)[1] == FAIL).sum() == 0


def test_a_one_hour_peak_that_does_not_fall_back_is_no_spike():
    q = quiet()
    q[200:] += 60.0 * 0.75 ** np.arange(200)
    q[200] = 90.0
    assert (judged(q)[1] == FAIL).sum() == 0


@pytest.mark.parametrize(("kept", "expected"), [(0.6, PASS), (0.4, SUSPECT)])
def test_a_rise_is_confirmed_by_a_neighbour_that_keeps_half_of_it(kept, expected):
    q = quiet()
    x = np.log(q + LIMITS.floor)
    x[200] += 2.0 * LIMITS.rise
    x[201:] += kept * 2.0 * LIMITS.rise
    assert judged(np.exp(x) - LIMITS.floor)[0]["rise"][200] == expected


@pytest.mark.parametrize(("left", "expected"), [(0.2, FAIL), (1.0, SUSPECT), (2.5, PASS)])
def test_a_peak_fails_as_a_spike_only_where_the_level_comes_back(left, expected):
    """It falls by 1.2 times what fails a spike, after a rise of as much and what is left of it; or hardly falls."""
    q, fall = quiet(), 1.2 * LIMITS.spike_fail if left < 2.0 else 0.9 * LIMITS.spike_suspect
    x = np.log(q + LIMITS.floor)
    x[200] += fall * (1.0 + left)
    x[201:] += fall * left
    assert judged(np.exp(x) - LIMITS.floor)[0]["spike"][200] == expected


def test_a_gauge_that_always_wobbles_is_not_suspected_for_it():
    rng = np.random.default_rng(3)
    history, q = (5.0 * np.exp(0.4 * rng.normal(size=n)) for n in (9000, 3000))
    verdict, _ = judged(q, limits=limits_from(history, 100.0))
    for name in ("spike", "rise", "fall"):
        assert (verdict[name] > NOT_EVALUATED).mean() < 0.001, name
    calm, _ = judged(q)
    assert all((calm[name] > NOT_EVALUATED).mean() > 0.05 for name in ("spike", "fall"))


def test_a_fall_no_river_makes_is_suspect():
    q = quiet(level=60.0)
    q[200:] = 3.0 * 0.9995 ** np.arange(200)
    verdict, _ = judged(q)
    assert np.flatnonzero(verdict["fall"] == SUSPECT).tolist() == [200]


def test_the_first_value_after_a_short_gap_is_compared_across_it():
    q = quiet()
    q[200:203] = np.nan
    q[203:] *= 2000.0 / q[203]
    verdict, _ = judged(q[:204])
    assert verdict["rise"][203] == SUSPECT
    q[196:203] = np.nan
    assert judged(q[:204])[0]["rise"][203] == NOT_EVALUATED


def test_a_stuck_gauge_is_suspect_after_a_day_and_fails_after_three():
    q = river(1000, seed=4)
    q[500:700] = 40.0  # well above the median: a river cannot stand still there
    verdict, _ = judged(q)
    flat = verdict["flat_line"]
    assert (flat[500:524] == PASS).all()
    assert (flat[524:572] == SUSPECT).all()
    assert (flat[572:700] == FAIL).all() and flat[700] == PASS
    q[500:700:7] = np.nan  # gaps do not hide it
    q[500:700:5] *= 1.0005  # nor does the last digit
    assert (judged(q)[0]["flat_line"][[580, 641, 698]] == FAIL).all()


def test_the_first_values_after_a_long_gap_are_not_a_flat_line():
    q = quiet()
    q[100:300] = np.nan
    q[300:303] = q[99]
    assert (judged(q)[0]["flat_line"][300:303] == PASS).all()


def test_a_coarse_gauge_may_repeat_itself_at_low_flow_but_not_at_high_flow():
    coarse = np.round(HISTORY * 8) / 8  # steps of 0.125 m3/s: days without a change at low flow
    limits = limits_from(coarse, 100.0)
    assert limits.flat_hours_low > 72.0 and limits.flat_hours == 72.0
    assert limits_from(HISTORY, 100.0).flat_hours_low == 72.0
    q = coarse[:600].copy()
    q[300:400] = 1.0
    assert not (judged(q, limits=limits)[0]["flat_line"] == FAIL).any()
    q[300:400] = limits.flat_level + 10.0
    assert (judged(q, limits=limits)[0]["flat_line"][372:400] == FAIL).all()


def test_zero_is_legal_where_the_river_has_been_dry_before():
    q = np.maximum(river(4000) - 3.0, 0.0)
    limits = limits_from(q, 100.0)
    q[1000:1600] = 0.0
    _, total = judged(q, limits=limits)
    assert (total[1100:1600] == PASS).all()
    permanent = quiet(600)
    permanent[300:] = 0.0  # a river that never dried: the gauge is broken
    _, total = judged(permanent)
    assert (total[300:372] == SUSPECT).all() and (total[300 + int(LIMITS.flat_hours_low) :] == FAIL).all()


def test_little_history_means_wide_limits():
    empty = limits_from(np.full(10, np.nan), 100.0)
    assert all(np.isfinite(astuple(empty)))
    q = quiet()
    q[200:210] = [20, 60, 100, 90, 80, 70, 60, 50, 40, 30]
    assert (judged(q, limits=empty)[1] == FAIL).sum() == 0
    assert (judged(q, limits=limits_from(q[:48], 100.0))[1] == FAIL).sum() == 0
    with pytest.raises(ValueError, match="neither"):
        limits_from(np.array([np.nan]))


def test_limits_are_hardly_moved_by_the_faults_in_the_history():
    spoilt = HISTORY.copy()
    spoilt[[100, 3000, 6000]] = [5000.0, 4000.0, 3000.0]
    spoilt[[500, 5000]] = -999.0
    spoilt[7000:7100] = 10.0
    clean, dirty = limits_from(HISTORY, 100.0), limits_from(spoilt, 100.0)
    np.testing.assert_allclose(astuple(dirty), astuple(clean), rtol=0.2)
    _, total = judged(spoilt, limits=dirty)
    assert (total[[100, 3000, 6000, 500, 5000, 7080]] == FAIL).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(CONTEXT, 700), st.booleans())
def test_flags_depend_on_the_context_and_one_hour_ahead_only(seed, hour, provisional):
    rng = np.random.default_rng(seed)
    q = river(800, seed)
    q[rng.integers(0, 800, 8)] = rng.choice([np.nan, -999.0, 0.0, 900.0], 8)
    start = rng.integers(0, 500)
    q[start : start + rng.integers(20, 300)] = rng.choice([2.0, 30.0])
    q = np.column_stack([q, river(800, seed + 1)])
    whole = flags(q, [LIMITS, replace(LIMITS, flat_hours_low=float(CONTEXT))], provisional)
    ahead = 0 if provisional else 1
    part = flags(
        q[hour - CONTEXT : hour + ahead + 1], [LIMITS, replace(LIMITS, flat_hours_low=float(CONTEXT))], provisional
    )
    for name in TESTS:
        np.testing.assert_array_equal(part[name][CONTEXT], whole[name][hour], err_msg=name)


def test_the_newest_hour_is_judged_as_if_provisional():
    q = river(900, 5)[:, None]
    q[[300, 600], 0] = [700.0, np.nan]
    ahead = flags(q, [LIMITS], provisional=True)
    for hour in (250, 300, 301, 599, 601, 700):
        live = flags(q[: hour + 1], [LIMITS])
        for name in TESTS:
            assert live[name][hour, 0] == ahead[name][hour, 0], (name, hour)


def test_stations_do_not_disturb_each_other():
    a, b = river(500, 1), river(500, 2)
    b[[100, 200]] = [np.nan, 800.0]
    other = replace(LIMITS, rise=0.2, flat_hours=30.0)
    both = flags(np.column_stack([a, b]), [LIMITS, other])
    for i, (q, limits) in enumerate(((a, LIMITS), (b, other))):
        alone = flags(q[:, None], [limits])
        for name in TESTS:
            np.testing.assert_array_equal(both[name][:, i], alone[name][:, 0])
    with pytest.raises(ValueError, match=r"expected \(time, 1\)"):
        flags(np.column_stack([a, b]), [LIMITS])


def test_the_tests_agree_with_ioos_qc_where_the_definitions_coincide():
    q = river(2000, 7)
    q[[50, 400]] = [np.nan, 300.0]
    q[600:800] = 20.0
    q[900] = 4000.0
    q[1200:1300] = -5.0
    limits = replace(LIMITS, flat_hours_low=72.0)
    mine, total = judged(q, limits=limits)
    time = np.datetime64("2024-01-01", "ns") + np.arange(q.size) * np.timedelta64(1, "h")
    lim = LIMITS
    theirs = qartod.gross_range_test(q, fail_span=(-1e9, lim.fail_high), suspect_span=(-1e9, lim.suspect_high))
    high = q > lim.suspect_low
    np.testing.assert_array_equal(mine["gross_range"][high], np.asarray(theirs)[high])
    x = np.log(np.where((q >= 0) & (q <= lim.fail_high), q, np.nan) + lim.floor)
    theirs = np.asarray(qartod.spike_test(x, lim.spike_suspect, lim.spike_fail, method="differential"))
    apart = np.isfinite(np.r_[np.nan, x[:-1]]) & np.isfinite(x)  # across gaps only ours looks further back
    np.testing.assert_array_equal(mine["spike"][apart], theirs[apart])
    kept = np.where(mine["spike"] == FAIL, np.nan, x)
    theirs = np.asarray(qartod.rate_of_change_test(kept, tinp=time, threshold=0.3 / 3600))
    ours, _ = judged(q, provisional=True, limits=replace(lim, rise=0.3, fall=0.3))
    worse = np.maximum(ours["rise"], ours["fall"])
    apart = np.isfinite(np.r_[np.nan, kept[:-1]]) & np.isfinite(kept)
    np.testing.assert_array_equal(worse[apart], theirs[apart])
    assert (theirs == SUSPECT).sum() > 10
    theirs = np.asarray(
        qartod.flat_line_test(x, time, suspect_threshold=24 * 3600, fail_threshold=72 * 3600, tolerance=0.002)
    )
    whole = np.isfinite(x) & (np.arange(q.size) > 1372)  # away from the impossible stretch, where ours asks for values
    whole |= np.isfinite(x) & (np.arange(q.size) < 1200)
    np.testing.assert_array_equal(mine["flat_line"][whole], theirs[whole])
    assert (theirs == FAIL).sum() > 100
    theirs = qartod.qartod_compare([flag.astype(int) for flag in mine.values()])
    np.testing.assert_array_equal(total, np.asarray(theirs))


def test_range_flags_of_weather():
    flag = range_flags(np.array([np.nan, -1.0, 0.0, 12.0, 5000.0, np.inf]), VARIABLES["precipitation"])
    assert flag.tolist() == [MISSING, FAIL, PASS, PASS, FAIL, FAIL] and flag.dtype == np.int8
    assert range_flags(np.array([-40.0, -999.0]), VARIABLES["temperature"]).tolist() == [PASS, FAIL]


# --- real gauges ---------------------------------------------------------------------------------------------------


def real(name):
    path = REAL / name / f"{name}_hourly.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set HYDRODA_REAL_DATA to the folder of real hourly sets")
    import pandas as pd

    table = pd.read_csv(path, usecols=["time", "discharge"])
    return table["time"].str[:4].astype(int).to_numpy(), table["discharge"].to_numpy(float)


@pytest.mark.parametrize("name", SETS)
def test_the_twenty_largest_floods_of_a_real_gauge_pass(name):
    _, q = real(name)
    first = q[: len(q) // 2]
    for limits, usual in ((limits_from(q, SETS[name]), True), (limits_from(first, SETS[name]), False)):
        _, final = judged(q, limits=limits)
        _, live = judged(q, provisional=True, limits=limits)
        rest = q.copy()
        for _ in range(20):
            peak = int(np.nanargmax(rest))
            around = slice(max(peak - 24, 0), peak + 25)
            assert (final[around] != FAIL).all() and (live[around] != FAIL).all(), f"{name}, row {peak}"
            assert final[peak] == PASS or not usual  # what half a record has not seen may be suspect, not failed
            rest[max(peak - 72, 0) : peak + 72] = np.nan


@pytest.mark.parametrize("name", SETS)
def test_few_hours_of_a_real_gauge_fail(name):
    year, q = real(name)
    _, total = judged(q, limits=limits_from(q, SETS[name]))
    usual = ~((name == "posina") & (year == 1997))
    assert (total[usual] == FAIL).mean() < 0.005
    if name == "posina":
        assert (total[year == 1997] == FAIL).mean() > 0.05  # the year in which the gauge was stuck


@pytest.mark.parametrize("name", SETS)
def test_a_spike_put_into_a_real_record_is_found(name):
    _, q = real(name)
    limits = limits_from(q, SETS[name])
    rng = np.random.default_rng(0)
    where = rng.choice(np.flatnonzero(np.isfinite(q) & np.isfinite(np.roll(q, 1)) & np.isfinite(np.roll(q, -1))), 40)
    where = where[(where > 2) & (where < q.size - 2)]
    spoilt = q.copy()
    spoilt[where] = (q[where] + limits.floor) * np.exp(1.5 * limits.spike_fail)
    _, total = judged(spoilt, limits=limits)
    assert (total[where] == FAIL).mean() > 0.9


def test_limits_survive_storage_as_plain_numbers():
    assert Limits(*astuple(LIMITS)) == LIMITS and all(isinstance(number, float) for number in astuple(LIMITS))
