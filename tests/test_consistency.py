"""Statistics of innovations: values by hand, false alarms as rare as promised, wrong filters noticed."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from hydroda.filters import linear
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Hour, System
from hydroda.verifying.consistency import Square, consistency, desroziers, mean_square, nees

HOURS, MEMORY, Q, R = 800, 0.95, 0.5, 1.0
WRONG = {"right": (1.0, 1.0), "Q/4": (0.25, 1.0), "4Q": (4.0, 1.0), "R/4": (1.0, 0.25), "4R": (1.0, 4.0)}
TWINS = 20  # of each


def columns(name: str) -> slice:
    """Where the twins of a variant stand among the catchments."""
    i = list(WRONG).index(name)
    return slice(i * TWINS, (i + 1) * TWINS)


@pytest.fixture(scope="module")
def filtered() -> dict[str, np.ndarray]:
    """A Kalman filter on twins, one state and one gauge, told right errors or wrong ones: (HOURS − 50, catchment)."""
    random, c = np.random.default_rng(1), TWINS * len(WRONG)
    q, r = (np.repeat([pair[i] for pair in WRONG.values()], TWINS)[:, None, None] for i in (0, 1))
    told_q, told_r = torch.from_numpy(np.sqrt(Q * q)), torch.from_numpy(R * r)
    system = System(lambda x, u: MEMORY * x + u, lambda x: 2.0 * x, lambda mean: told_q, lambda y: told_r)
    made, addresses = linear.kalman(system), np.arange(c)
    x = random.standard_normal((c, 1, 1))
    zeros = torch.zeros(c, 1, 1, dtype=torch.float64)
    belief = made.init(zeros, zeros + 1.0, Noise(0, addresses, np.full(c, 0)))
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("normalised", "before", "after", "spread", "error", "cov")
    }
    for k in range(HOURS):
        u = random.uniform(0.0, 1.0, (c, 1, 1))
        x = MEMORY * x + u + np.sqrt(Q) * random.standard_normal((c, 1, 1))
        y = (2.0 * x + np.sqrt(R) * random.standard_normal((c, 1, 1)))[:, 0]
        hour = Hour(torch.from_numpy(u), torch.from_numpy(y), Noise(0, addresses, np.full(c, k)))
        belief, update = made.step(belief, hour)
        after = y - system.see(belief.mean)[:, 0].numpy()
        values = {
            "normalised": update.innovation / update.innovation_cov[..., 0].sqrt(),
            "before": update.innovation,
            "after": after,
            "spread": update.predicted.cov[..., 0],
            "error": belief.mean[:, 0] - torch.from_numpy(x[:, 0]),
            "cov": belief.cov[:, 0],
        }
        for name, value in values.items():
            found[name].append(np.asarray(value)[:, 0])
    return {name: np.stack(value)[50:] for name, value in found.items()}  # the start is another filter's


# --- filters ---------------------------------------------------------------------------------------------------------


def test_a_filter_with_the_right_errors_is_accepted(filtered):
    found = consistency(filtered["normalised"][:, columns("right")])
    alarms = sum(len(one.problems) for one in found)
    assert alarms <= stats.binom.ppf(0.999, 3 * TWINS, 0.05)
    assert sum(not one.problems for one in found) >= stats.binom.ppf(0.001, TWINS, 0.95**3)


@pytest.mark.parametrize(
    ("wrong", "size"), [("Q/4", "larger"), ("4Q", "smaller"), ("R/4", "larger"), ("4R", "smaller")]
)
def test_a_filter_with_wrong_errors_is_noticed(filtered, wrong, size):
    found = consistency(filtered["normalised"][:, columns(wrong)])
    assert all(f"times {size} than their error says" in one.problems[0] for one in found)
    # beyond the first lag there is little to find, which the other lags of the test dilute
    assert sum("not white" in one.problems[-1] for one in found) > TWINS / 2


def test_whether_model_or_gauge_is_doubted_too_little_shows_in_the_sign_of_the_first_lag(filtered):
    """Mehra (1970): a filter too slow leaves errors that persist, one too fast corrects them twice."""

    def first_lag(name: str) -> float:
        return np.mean([one.autocorrelation[0] for one in consistency(filtered["normalised"][:, columns(name)])])

    assert first_lag("Q/4") > 0.1 and first_lag("4R") > 0.1
    assert first_lag("4Q") < -0.1 and first_lag("R/4") < -0.1
    assert abs(first_lag("right")) < 4 / np.sqrt(TWINS * 750)


def test_nees_accepts_the_right_filter_and_notices_the_wrong(filtered):
    """Over twins and days: hours so far apart are independent."""

    def of(name: str) -> Square:
        error, cov = (filtered[key][::24, columns(name)].reshape(-1, 1) for key in ("error", "cov"))
        return nees(error, cov[..., None])

    right = of("right")
    assert right.low < right.mean < right.high
    assert right.expected == 1.0 and right.count == 32 * TWINS
    for name in ("Q/4", "R/4"):
        assert of(name).mean > of(name).high
    assert of("4R").mean < of("4R").low  # with 4Q the analysis is little but the gauge, whose error is known


def test_desroziers_finds_the_errors_of_a_filter_that_knows_them(filtered):
    chosen = columns("right")
    r, spread = desroziers(filtered["before"][:, chosen], filtered["after"][:, chosen])
    assert r.shape == spread.shape == (1, TWINS)
    assert abs(r.mean() / R - 1) < 0.05 and abs(spread.mean() / filtered["spread"][-1, chosen].mean() - 1) < 0.05
    assert (np.abs(r / R - 1) < 0.2).all()
    total = (filtered["before"][:, chosen] ** 2).mean(0)
    np.testing.assert_allclose((r + spread)[0], total, rtol=1e-12)


def test_desroziers_with_a_wrong_gain_has_the_sum_right_and_the_share_of_the_filter(filtered):
    chosen = columns("4R")
    r, spread = desroziers(filtered["before"][:, chosen], filtered["after"][:, chosen])
    told = filtered["spread"][-1, chosen]
    np.testing.assert_allclose((r / spread)[0], 4 * R / told, rtol=1e-6)
    np.testing.assert_allclose((r + spread)[0], (filtered["before"][:, chosen] ** 2).mean(0), rtol=1e-12)


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_are_those_by_hand():
    z = np.random.default_rng(2).standard_normal((200, 1)) * 1.1 + 0.05
    (one,) = consistency(z, ["ach"], lags=5, level=0.9)
    x, k = z[:, 0], 200
    assert one.station == "ach" and one.nis.count == k and one.level == 0.9
    np.testing.assert_allclose((one.mean, one.mean_error), (x.mean(), x.std() / np.sqrt(k)), rtol=1e-12)
    low, high = stats.chi2.ppf((0.05, 0.95), k) / k
    np.testing.assert_allclose((one.nis.mean, one.nis.low, one.nis.high), ((x**2).mean(), low, high), rtol=1e-10)
    np.testing.assert_allclose(one.bound, stats.norm.ppf(0.95) / np.sqrt(k), rtol=1e-12)
    e, box = x - x.mean(), 0.0
    for lag in range(1, 6):
        r = (e[lag:] * e[:-lag]).sum() / (e**2).sum()
        box += k * (k + 2) * r**2 / (k - lag)
        np.testing.assert_allclose(one.autocorrelation[lag - 1], r * k / (k - lag), rtol=1e-12)
    np.testing.assert_allclose(one.ljung_box, stats.chi2.sf(box, 5), rtol=1e-10)
    assert consistency(z)[0].bound == pytest.approx(1.95996 / np.sqrt(k), rel=1e-5)


def test_pairs_are_formed_where_both_are_there():
    z = np.random.default_rng(3).standard_normal((400, 2))
    z[::3, 0] = np.nan
    z[1::2, 1] = np.nan  # every second hour: no pair an odd lag apart
    first, second = consistency(z, lags=4)
    x = z[:, 0]
    e = x - np.nanmean(x)
    for lag in range(1, 5):
        product = e[lag:] * e[:-lag]
        assert first.autocorrelation[lag - 1] == pytest.approx(np.nanmean(product) / np.nanmean(e**2), rel=1e-12)
    assert np.isnan(second.autocorrelation).tolist() == [True, False, True, False]
    assert second.nis.count == 200
    (alone,) = consistency(z[::2, 1:], lags=2)
    np.testing.assert_allclose(alone.autocorrelation, second.autocorrelation[1::2], rtol=1e-12)
    assert alone.ljung_box == pytest.approx(second.ljung_box, rel=1e-9)


def test_mean_squares_of_several_gauges_count_those_that_were_seen():
    squares, freedom = np.array([1.0, np.nan, 5.0, 3.0]), np.array([1, 3, 2, 2])
    found = mean_square(squares, freedom)
    low, high = stats.chi2.ppf((0.025, 0.975), 5) / 3
    np.testing.assert_allclose(
        (found.mean, found.expected, found.low, found.high, found.count), (3.0, 5 / 3, low, high, 3), rtol=1e-9
    )
    assert mean_square([np.nan], 1).count == 0 and np.isnan(mean_square([np.nan], 1).mean)


def test_nees_by_hand():
    random = np.random.default_rng(4)
    error, half = random.standard_normal((6, 3)), random.standard_normal((6, 3, 3))
    cov = half @ half.transpose(0, 2, 1) + np.eye(3)
    error[2, 1], cov[4, 0, 0] = np.nan, np.nan
    expected = [error[k] @ np.linalg.inv(cov[k]) @ error[k] for k in (0, 1, 3, 5)]
    found = nees(torch.from_numpy(error), torch.from_numpy(cov))
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert (found.expected, found.count) == (3.0, 4)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 12) / 4, rel=1e-9)


def test_tensors_are_as_good_as_arrays():
    z = np.random.default_rng(5).standard_normal((100, 2))
    assert consistency(torch.from_numpy(z)) == consistency(z)


# --- false alarms and power ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_white_noise_alarms_as_often_as_promised(missing):
    random = np.random.default_rng(6)
    z = random.standard_normal((500, 1000))
    z[random.random(z.shape) < missing] = np.nan
    texts = [one.problems for one in consistency(z, lags=10)]
    for words in ("their error says", "biased", "not white"):
        share = np.mean([any(words in text for text in found) for found in texts])
        assert 0.03 < share < 0.07, words
    inside = np.array([one.autocorrelation for one in consistency(z[:, :200], lags=10)])
    bounds = np.array([one.bound for one in consistency(z[:, :200], lags=10)])
    if not missing:
        assert 0.03 < (np.abs(inside) > bounds[:, None]).mean() < 0.07


def test_what_is_wrong_is_said():
    random = np.random.default_rng(7)
    white = random.standard_normal((2000, 4))
    z = white.copy()
    z[:, 0] *= 1.8
    z[:, 1] /= 2.0
    z[:, 2] += 0.3
    for now, before in pairwise(reversed(range(2000))):
        z[now, 3] = 0.8 * white[now, 3] + 0.6 * white[before, 3]  # variance one
    large, small, biased, coloured = (one.problems for one in consistency(z, lags=12))
    assert len(large) == len(small) == len(coloured) == 1
    square = (z**2).mean(0)
    says, expected = "than their error says (NIS", "expected 0.939-1.06)"
    assert large[0] == f"innovations are {np.sqrt(square[0]):.3g} times larger {says} {square[0]:.3g}, {expected}"
    assert small[0] == f"innovations are {1 / np.sqrt(square[1]):.3g} times smaller {says} {square[1]:.3g}, {expected}"
    assert "biased: their mean is +0.3" in biased[-1] or "biased: their mean is +0.2" in biased[-1]
    assert re.match(r"innovations are not white: autocorrelation \+0\.[45]\d at lag 1, bound 0.044 ", coloured[0])


def test_too_few_innovations_are_not_judged():
    z = np.full((500, 3), np.nan)
    z[:29, 0] = 100.0
    z[:30, 1] = 100.0
    few, enough, none = consistency(z)
    assert few.problems == ("29 innovations are too few to judge, 30 are needed",)
    assert any("100 times larger" in text for text in enough.problems)
    assert none.nis.count == 0 and none.problems == ("0 innovations are too few to judge, 30 are needed",)


# --- Desroziers in windows -------------------------------------------------------------------------------------------


def test_windows_are_means_of_what_is_there_with_a_floor():
    random = np.random.default_rng(8)
    before, after = random.standard_normal((2, 30, 2))
    before[3:6, 0], after[10, 1] = np.nan, np.nan
    before[20:, 1] = np.nan
    r, spread = desroziers(before, after, window=5, floor=0.05)
    assert r.shape == spread.shape == (26, 2)
    floors = 0
    for k in range(26):
        for i in range(2):
            b, a = before[k : k + 5, i], after[k : k + 5, i]
            there = np.isfinite(a) & np.isfinite(b)
            if not there.any():
                assert np.isnan(r[k, i]) and np.isnan(spread[k, i])
                continue
            b, a = b[there], a[there]
            least = 0.05 * (b**2).mean()
            floors += (a * b).mean() < least
            np.testing.assert_allclose(r[k, i], max((a * b).mean(), least), rtol=1e-9)
            np.testing.assert_allclose(spread[k, i], max(((b - a) * b).mean(), least), rtol=1e-9)
    assert floors > 3 and np.nanmin(r) > 0 and np.nanmin(spread) > 0


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(ValueError, match="time, station"):
        consistency(np.zeros(5))
    with pytest.raises(ValueError, match="1 names for 2 stations"):
        consistency(np.zeros((5, 2)), ["ach"])
    with pytest.raises(ValueError, match="lags is 0"):
        consistency(np.zeros((5, 2)), lags=0)
    with pytest.raises(ValueError, match=r"level is 1\.0"):
        consistency(np.zeros((5, 2)), level=1.0)
    with pytest.raises(ValueError, match="two arrays"):
        desroziers(np.zeros((5, 2)), np.zeros((5, 1)))
    for window in (0, 6):
        with pytest.raises(ValueError, match=f"a window of {window} steps in a record of 5"):
            desroziers(np.zeros((5, 2)), np.zeros((5, 2)), window=window)
    with pytest.raises(np.linalg.LinAlgError):
        nees(np.ones((2, 2)), np.zeros((2, 2, 2)))
    one = consistency(np.zeros((40, 1)))[0]
    assert np.isnan(one.autocorrelation).all() and np.isnan(one.ljung_box)
    assert len(one.problems) == 1 and "smaller" in one.problems[0]
