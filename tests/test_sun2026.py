"""The study of a learned gain in a rainfall-runoff model: numbers by hand, and the command on a small deployment."""

import gzip
import hashlib
import json
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import SMALL
from test_verification import HALVED, archive, observations

from hydroda import steps
from hydroda.__main__ import main
from hydroda.calibrating.fitting import Effort
from hydroda.domain import store_of
from hydroda.filters import guided, lstm
from hydroda.forecast import calibrated, network_files
from hydroda.forecast.batches import build_model
from hydroda.forecast.calibrated import Taught
from hydroda.forecast.correction import BASELINES
from hydroda.forecast.known import forecast_table, newest_forecast
from hydroda.progress import silent
from hydroda.reproduction import (
    sun2026,
    sun2026_plan,
    sun2026_rain,
    sun2026_report,
    sun2026_rows,
    sun2026_scores,
    sun2026_together,
)
from hydroda.reproduction.sun2026_plan import RIVERS, River
from hydroda.reproduction.sun2026_scores import CLASSICAL, LEADS, Result, ratio_interval, scored
from hydroda.schema import LEADS as EVERY
from hydroda.schema import hours
from hydroda.settings import Model
from hydroda.settings_file import load
from hydroda.teaching import gains, learning
from hydroda.units import HOUR
from hydroda.verifying import verification
from hydroda.verifying.verification import BOUNDS, DIMS, Sample

START = np.datetime64("2003-01-01T00", "ns")
LAST = LEADS.index(24)
FIRST_ISSUE, LAST_ISSUE = np.datetime64("2003-06-10T00", "ns"), np.datetime64("2003-06-11T23", "ns")
SMALLEST = River(
    40.0, (47.0, 9.8), 480.0, ("2003-01-21", "2003-05-10T23"), "2003-05-31T23", ("2003-06-10", "2003-06-11T23")
)


def sample(errors: dict[str, np.ndarray | float], observed: np.ndarray, half_width: float = 1.0) -> Sample:
    """Forecasts that err by so much (F, 24), one hour after the other, within an interval of this half width."""
    seen = np.broadcast_to(observed[:, None], (observed.size, EVERY.size)).astype(float)
    coords = {DIMS[0]: START + np.arange(observed.size) * HOUR, DIMS[1]: EVERY}
    names = ["forecast", "filter", "networks", *BASELINES]
    values = np.stack([seen + errors.get(name, 1.0) for name in names])
    truth = xr.DataArray(seen, coords, DIMS[:2])
    forecasts = xr.DataArray(values, {"method": names, **coords}, ("method", *DIMS[:2]))
    bounds = zip(BOUNDS, (-half_width, -0.5 * half_width, 0.5 * half_width, half_width), strict=True)
    return Sample(forecasts, truth, {name: truth + each for name, each in bounds}, {}, None)


def result(**changed) -> Result:
    """One that reaches everything, barely."""
    by_lead = {name: (value,) * len(LEADS) for name, value in (("ratio", 0.95), ("low", 0.9), ("high", 1.0))}
    nse = {name: (0.5,) * len(LEADS) for name in ("forecast", "filter", "networks", "seed_1", *BASELINES)}
    same = {"n": (10,) * len(LEADS), "best": ("filter",) * len(LEADS)}
    inside = {"inside": (88.0,) * len(LEADS), "inside_high": (80.0,) * len(LEADS)}
    draws = ((0.95,) * len(LEADS),)
    return replace(Result("wye", "observed", nse=nse, by_draw=draws, **by_lead, **same, **inside), **changed)


def at(lead: int, value: float, otherwise: float) -> tuple[float, ...]:
    return tuple(value if each == lead else otherwise for each in LEADS)


def test_scores_are_those_by_hand():
    """Observations 1, 2, 3, 4 have the variance 1.25."""
    of_open_loop = np.where(EVERY == 24, 0.4, 1.0)
    errors = {"forecast": 0.2, "filter": 0.5, "networks": -0.3, "open_loop": of_open_loop}
    found = scored("wye", "none", sample(errors, np.array([1.0, 2.0, 3.0, 4.0])), {})
    assert found.n == (4,) * len(LEADS)
    assert found.best == at_names("open_loop", "filter")
    assert found.ratio == pytest.approx(at(24, 0.04 / 0.16, 0.04 / 0.25))
    expected = {"forecast": 0.04, "filter": 0.25, "networks": 0.09, "filter_and_networks": 0.01, "persistence": 1.0}
    for name, error in expected.items():
        assert found.nse[name] == pytest.approx((1 - error / 1.25,) * len(LEADS)), name
    assert found.nse["open_loop"][LAST] == pytest.approx(1 - 0.16 / 1.25)
    assert found.inside == (100.0,) * len(LEADS)


def at_names(last: str, otherwise: str) -> tuple[str, ...]:
    return tuple(last if lead == 24 else otherwise for lead in LEADS)


def test_networks_do_not_count_as_classical_and_may_be_missing():
    observed = np.arange(5.0)
    found = scored("wye", "none", sample({"forecast": 0.1, "networks": 0.01, "filter": 0.2}, observed), {})
    assert set(found.best) == {"filter"} and "networks" not in CLASSICAL and "filter_and_networks" not in CLASSICAL
    without = scored("wye", "none", sample({"forecast": 0.1, "networks": np.nan, "filter": 0.2}, observed), {})
    assert np.isnan(without.nse["networks"]).all() and np.isnan(without.nse["filter_and_networks"]).all()
    assert without.ratio == found.ratio


def test_a_missing_observation_counts_for_nobody():
    observed = np.array([1.0, np.nan, 3.0])
    found = scored("wye", "none", sample({"forecast": 0.1, "filter": 0.2}, observed), {})
    assert found.n == (2,) * len(LEADS) and found.ratio == pytest.approx((0.25,) * len(LEADS))
    assert found.nse["forecast"] == pytest.approx((1 - 0.01,) * len(LEADS))


def test_scores_agree_with_those_of_verify():
    random, count = np.random.default_rng(5), 300
    truth = np.exp(0.1 * random.normal(size=(count + 24, 1)).cumsum(0))
    ahead = np.arange(count)[:, None] + EVERY
    spread = np.full((count, 24, 1), 0.2)
    parts = [truth[ahead] * np.exp(spread * random.normal(size=spread.shape)) for _ in range(3)]
    made = archive(
        START + np.arange(count) * HOUR, parts[0], spread, 1.3 * truth[ahead], truth[:count], truth[:count], "a"
    )
    made = made.assign(discharge_filter=(DIMS, parts[1]), discharge_networks=(DIMS, parts[2]))
    observed = np.where(random.random(truth.shape) < 0.05, np.nan, truth)
    seen = observations(START + np.arange(count + 24) * HOUR, observed, "a")
    theirs = verification.verify([made], seen, {"a": HALVED}).sel(station="a", forecast_period=list(LEADS))
    ours = scored("a", "observed", verification.common_sample(verification.pool([made]), seen, "a", HALVED), {})
    assert ours.n == tuple(theirs.n.values)
    for name in theirs.method.values:
        assert ours.nse[str(name)] == pytest.approx(theirs.nse.sel({"method": name}).values), name
    assert ours.inside == pytest.approx(theirs.coverage_90.values) and 80 < ours.inside[0] < 97
    assert ours.inside_high == pytest.approx(theirs.coverage_90_high.values)


def test_the_interval_is_that_of_all_ways_to_draw_two_weeks():
    """Twice the first week, each once, twice the second: ratios 0.5, 1, 1.5 with chances 1/4, 1/2, 1/4."""
    issued, against, block = np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]]), np.array([0, 1])
    assert ratio_interval(issued, against, block).ravel() == pytest.approx([0.5, 1.5])
    more = ratio_interval(np.array([[1.0]] * 9 + [[3.0]]), np.full((10, 1), 2.0), np.arange(10), draws=20_000)
    chance = {0: 0.9**10, 1: 10 * 0.1 * 0.9**9, 2: 45 * 0.01 * 0.9**8, 3: 120 * 0.001 * 0.9**7}
    assert (
        sum(chance[k] for k in (0, 1, 2)) < 0.95 < sum(chance.values())
    )  # so 95 % lies at three draws of the bad week
    assert more.ravel() == pytest.approx([0.5, (7 * 1 + 3 * 3) / 20])


def test_the_interval_is_as_wide_as_few_weeks_are_and_not_as_many_hours():
    random = np.random.default_rng(2)
    weekly = np.repeat(random.exponential(size=(20, 1)), 168, 0)
    against, block = np.ones_like(weekly), np.repeat(np.arange(20), 168)
    wide, narrow = (np.ptp(ratio_interval(weekly, against, each)) for each in (block, np.arange(weekly.size)))
    assert wide > 5 * narrow
    same = ratio_interval(0.8 * weekly, weekly, block)
    assert same.ravel() == pytest.approx([0.8, 0.8])
    assert np.array_equal(ratio_interval(weekly, against, block), ratio_interval(weekly, against, block))


def test_scores_are_drawn_by_weeks():
    """A good week and a bad one: drawn by the hour, the ratio would hardly vary."""
    error = np.repeat([np.sqrt(0.5), np.sqrt(1.5)], 168)[:, None]
    found = scored("wye", "none", sample({"forecast": error}, np.arange(336.0)), {})
    assert found.ratio == pytest.approx((1.0,) * len(LEADS))
    assert found.low == pytest.approx((0.5,) * len(LEADS)) and found.high == pytest.approx((1.5,) * len(LEADS))


def row(errors: list[float | np.ndarray]) -> xr.DataArray:
    """Forecasts of 1, 2, 3, 4 that err by so much, an hour after the other."""
    seen = np.broadcast_to(np.arange(1.0, 5.0)[:, None], (4, EVERY.size))
    coords = {DIMS[0]: START + np.arange(4) * HOUR, DIMS[1]: EVERY}
    return xr.DataArray(seen + np.array(errors)[:, None], coords, DIMS[:2])


def test_rows_of_other_deployments_stand_beside_on_the_hours_of_all():
    """Without the second hour observations 1, 3, 4 have the variance 14/9; two seeds err by 0.1 and −0.3."""
    own = sample({"forecast": 0.2, "filter": 0.5, "networks": np.nan}, np.arange(1.0, 5.0))
    beside = {"ukf_1h": [0.4] * 4, "enkf": [0.3, np.nan, 0.3, 0.3], "seed_1": [0.1] * 4, "seed_2": [-0.3] * 4}
    found = scored("wye", "none", own, {name: row(errors) for name, errors in (beside | {"first": [0.9] * 4}).items()})
    order = ["forecast", "filter", "ukf_1h", "enkf", "networks", "seed_1", "seed_2", "first", "filter_and_networks"]
    assert list(found.nse) == [*order, *BASELINES]
    assert found.n == (3,) * len(LEADS) and found.best == ("enkf",) * len(LEADS)
    assert found.ratio == pytest.approx((0.04 / 0.09,) * len(LEADS))
    expected = {"ukf_1h": 0.4, "enkf": 0.3, "networks": -0.1, "seed_1": 0.1, "first": 0.9, "filter_and_networks": 0.2}
    for name, error in expected.items():
        assert found.nse[name] == pytest.approx((1 - error**2 * 9 / 14,) * len(LEADS)), name


def test_learned_gains_do_not_count_as_classical():
    own = sample({"forecast": 0.2, "filter": 0.5, "networks": np.nan}, np.arange(1.0, 5.0))
    found = scored("wye", "none", own, {"seed_1": row([0.0] * 4), "leads_1_to_3": row([0.0] * 4)})
    assert set(found.best) == {"filter"} and found.nse["networks"] == found.nse["seed_1"] == (1.0,) * len(LEADS)


@pytest.mark.parametrize(
    ("changed", "met", "told"),
    [
        ({}, [True] * 4, (0, "0.950", 1)),
        ({"ratio": at(18, 1.02, 0.9)}, [True] * 4, (0, "1.020", 18)),
        ({"ratio": at(18, 1.021, 0.9)}, [False, True, True, True], (0, "1.021", 18)),
        ({"ratio": at(3, 0.96, 0.9)}, [True, False, True, True], (1, "0.960", 3)),
        ({"ratio": at(12, 0.951, 0.9)}, [True, False, True, True], (1, "0.951", 12)),
        ({"ratio": at(2, 1.0, 0.9)}, [True] * 4, (1, "0.900", 3)),
        ({"inside": at(12, 92.1, 90.0)}, [True, True, False, True], (2, "92.1 %", 12)),
        ({"inside": at(6, 87.9, 90.0)}, [True, True, False, True], (2, "87.9 %", 6)),
        ({"inside": at(9, 10.0, 90.0)}, [True] * 4, (2, "90.0 %", 1)),
        ({"inside_high": at(24, 79.9, 99.0)}, [True, True, True, False], (3, "79.9 %", 24)),
    ],
)
def test_criteria_are_met_up_to_their_limits(changed, met, told):
    found = sun2026_report.criteria(result(**changed))
    which, words, lead = told
    assert [each[0] for each in found] == met and found[which][1:] == (words, lead)


def test_the_page_says_what_every_number_is_of(tmp_path):
    missing = result(forcing="none", n=at(24, 9, 10), ratio=at(18, 1.1, 0.9))
    missing.nse.update(forecast=(0.75,) * len(LEADS), networks=(np.nan,) * len(LEADS))
    results = [result(), missing]
    rain = {"wye": ((0.8, 0.9), (0.7, 0.85), (0.6, 0.8))}
    text = sun2026_report.page(results, {"wye": RIVERS["wye"].told(31)}, rain, sun2026_plan.FULL.told())
    assert "## wye: calibrated and trained 1987-05-01 to 1988-03-31, validated to 1988-06-30, " in text
    assert "forecasts issued 1988-07-01 to 1988-07-31" in text
    assert "NSE, wye, no rain in the lead hours, n = 9 to 10 forecasts" in text
    assert f"| hydroda | {' | '.join(['**0.750**'] * 8)} |" in text
    assert f"| networks, mean of seeds | {' | '.join('–' * 8)} |" in text
    assert f"| networks, seed 1 | {' | '.join(['0.500'] * 8)} |" in text
    assert "Error levels of the UKF: 42 generations of 40, for all leads (and half as many without each third" in text
    assert "and, in a row of its own, for 1 h alone" in text
    assert "the EnKF with 60 members: 20 generations of 24" in text and "Networks: 3 seeds, 400 steps" in text
    assert (
        "| wye, rain as observed | 0.950 (0.900–1.000) |" in text and "| … against | UKF tuned for all leads |" in text
    )
    assert "| wye, no rain | no (1.100 at 18 h) | yes (0.900 at 3 h) | yes (88.0 % at 1 h) |" in text
    assert "| wye | 0.80, 0.90 | 0.70, 0.85 | 0.60, 0.80 |" in text
    assert all(verification.LABELS[name] in text for name in BASELINES)
    paths = sun2026_report.write(tmp_path, text, results)
    assert [path.name for path in paths] == ["sun2026.md", "sun2026.json", "sun2026.png"]
    numbers = json.loads(paths[1].read_text(), parse_constant=pytest.fail)
    assert numbers[1]["nse"]["networks"] == [None] * 8 and numbers[0]["nse"]["networks"] == [0.5] * 8
    assert 5_000 < paths[2].stat().st_size < 150_000


def test_the_figure_has_a_panel_for_each_catchment_and_a_line_for_each_forcing():
    names, forcings = ("wye", "posina", "l0123003"), sun2026_report.FORCINGS
    results = [result(catchment=name, forcing=forcing) for name in names for forcing in forcings]
    panels = [axes for axes in sun2026_report.figure(results).axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == list(names)
    for axes in panels:
        assert {*axes.get_legend_handles_labels()[1]} == set(forcings.values()) and len(axes.collections) == 3


@pytest.fixture
def alone(deployed, tmp_path):
    """The folder of a calibrated deployment of one gauge, "ach", below a folder of a quick study."""
    folder = tmp_path / "sun2026-quick" / "ach"
    shutil.copytree(deployed.parent, folder)
    before, _ = SMALL.split("[[catchment]]\nid = 'bregenz'")
    before = before.replace("spin_up_hours = 1200", "spin_up_hours = 100")  # in each of many hindcasts
    (folder / "hydroda.toml").write_text(f"{before}pet_mm_per_year = 480.0\n")
    return folder


def test_degraded_weather_is_there_in_time_and_not_the_truth(alone):
    settings = load(alone / "hydroda.toml")
    store = store_of(settings)
    store.parameters_path("ach").unlink()  # it is calibrated with such weather in its store
    first, test = FIRST_ISSUE - 5 * 24 * HOUR, (FIRST_ISSUE, LAST_ISSUE)
    spans = sun2026_rain.degrade(settings, "ach", first, test, 3)
    assert all(0.2 < correlation < 0.995 and 0.4 < amount < 1.3 for correlation, amount in spans)
    assert spans[0][0] > spans[2][0]  # worse with lead
    each = ["ach", "ach_2", "ach_3"]
    told = store.forecasts(each, FIRST_ISSUE - 48 * HOUR, LAST_ISSUE + 48 * HOUR)
    table = forecast_table(told, each)
    for issue in hours(FIRST_ISSUE, LAST_ISSUE):
        values, runs = newest_forecast(table, issue + EVERY * HOUR, settings.known_by(issue))
        assert np.isfinite(values["precipitation"]).all() and (runs["precipitation"] < issue).all(), issue
    rain = [told.precipitation.values[(told.station == one) & (told.reference_time >= FIRST_ISSUE)] for one in each]
    assert all(len(two[0]) == len(two[1]) and (two[0] != two[1]).any() for two in combinations(rain, 2))
    totals = np.array([one.sum() for one in rain])
    assert (np.abs(totals / totals.mean() - 1.0) < 0.5).all()  # of the same weather
    seen = [store.observations([one], FIRST_ISSUE - 48 * HOUR, LAST_ISSUE).drop_vars("station") for one in each]
    assert seen[0].sizes["record"] and all(one.equals(seen[0]) for one in seen[1:])
    assert sun2026_rain.degrade(settings, "ach", first, test, 3) == spans
    assert store.forecasts(each, FIRST_ISSUE - 48 * HOUR, LAST_ISSUE + 48 * HOUR).equals(told)


def test_each_draw_of_the_rain_has_the_parameters_and_networks_of_the_river(alone):
    settings = load(alone / "hydroda.toml")
    taught(settings)
    several = sun2026_rain.drawn(settings, "ach", 2)
    assert [one.id for one in several.catchments] == ["ach", "ach_2"]
    store = store_of(several)
    first, second = (calibrated.restore(store.read_parameters(one.id)) for one in several.catchments)
    assert replace(second, station="ach") == first and second.station == "ach_2"
    assert store.weights_path("ach").read_bytes() == store.weights_path("ach_2").read_bytes()


def test_draws_of_the_rain_are_scored_together_and_apart():
    """Two of four hours each: they err by 1 and 3, the filter by 2 in both."""
    observed = np.arange(1.0, 5.0)
    draws = [
        sample({"forecast": error, "filter": 2.0, **dict.fromkeys(BASELINES, 9.0)}, observed) for error in (1.0, 3.0)
    ]
    found = scored("wye", "archived", sun2026_scores.pooled(draws), {})
    assert found.n == (8,) * len(LEADS) and found.best == ("filter",) * len(LEADS)
    assert found.ratio == pytest.approx(((1.0 + 9.0) / 8.0,) * len(LEADS))
    assert [draw[0] for draw in found.by_draw] == pytest.approx([1.0 / 4.0, 9.0 / 4.0])
    assert found.low == found.high == found.ratio  # all four hours are of one week, whatever the draw
    assert found.inside == pytest.approx((100.0,) * len(LEADS))  # an interval of a draw is around what was observed
    text = sun2026_report.draws_table([found, result()])
    assert "| wye, 1 | 0.250 |" in text and "| wye, 2 | 2.250 |" in text and text.count("| wye") == 2
    assert "n = 8 forecasts at each lead, in 2 draws of the rain:" in sun2026_report.nse_table(found)


def test_a_deployment_is_made_once_and_with_its_periods(deployed, tmp_path, monkeypatch):
    monkeypatch.setitem(RIVERS, "ach", SMALLEST)
    data, folder, done, told = tmp_path / "data", tmp_path / "ach", [], []
    (data / "ach").mkdir(parents=True)
    with gzip.open(data / "ach" / "ach_hourly.csv.gz", "wt") as file:
        file.write("time,precipitation,discharge\n2003-01-01T00:00,0.1,2.0\n2003-01-01T01:00,0.2,2.1\n")
    calibrated = store_of(load(deployed)).read_parameters("ach")

    def calibrate(settings, stations, start, end, *, validation, progress, effort):
        done.append(("calibrate", *map(str, (start, validation, end)), effort))
        store_of(settings).write_parameters("ach", calibrated)
        return [steps.Outcome("ach", "")]

    def train(settings, stations, start, end, *, progress, effort):
        done.append(("train", *map(str, (start, end)), effort))
        own = calibrated | {"taught": {"sha256": "0", "report": {}}}
        store_of(settings).write_parameters("ach", own)
        return [steps.Outcome("ach", "")]

    def degrade(settings, *span):
        told.append(span)
        return "like"

    monkeypatch.setattr(steps, "calibrate", calibrate)
    monkeypatch.setattr(steps, "train", train)
    monkeypatch.setattr(sun2026, "degrade", degrade)
    periods = [f"{time}:00:00.000000000" for time in ("2003-01-21T00", "2003-05-11T00", "2003-05-31T23")]
    for _ in range(2):  # the second time nothing is left to do
        settings, likeness = sun2026.deployed(data, folder, "ach", sun2026.QUICK, silent)
        assert likeness == "like" and told.pop() == (
            "ach",
            np.datetime64(periods[0]),
            SMALLEST.tested(sun2026.QUICK.days),
            sun2026.QUICK.draws,
        )
        assert [(name, *times) for name, *times, _ in done] == [
            ("calibrate", *periods),
            ("train", periods[0], periods[2]),
        ]
    assert [effort for *_, effort in done] == [sun2026.QUICK.search, sun2026.QUICK.training]
    assert settings.catchment("ach").pet_mm_per_year == 480.0 and settings.catchment("ach").lat == 47.0
    store_of(settings).write_parameters("ach", calibrated)
    monkeypatch.setattr(steps, "train", lambda *_, **__: [steps.Outcome("ach", "not trained: why", failed=True)])
    with pytest.raises(ValueError, match="not trained: why"):
        sun2026.deployed(data, folder, "ach", sun2026.QUICK, silent)


def test_without_the_data_it_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYDRODA_REAL_DATA", str(tmp_path / "nowhere"))
    assert main(["reproduce", "sun2026", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert all(f"{name}_hourly.csv.gz" in said for name in RIVERS) and "HYDRODA_REAL_DATA" in said
    assert not (tmp_path / "out").exists()


def taught(settings, *_, **__) -> list[steps.Outcome]:
    """Gives the catchment two networks that nobody has trained."""
    store, draw = store_of(settings), torch.Generator().manual_seed(3)
    found = calibrated.restore(store.read_parameters("ach"))
    stores = torch.tensor([state.water for state in build_model(found.model, found.temperature).states])
    states = 20.0 * torch.rand(50, stores.numel(), generator=draw, dtype=torch.float64)
    weights = lstm.initial(guided.scales(states, states[:, 0], stores), stores, range(2))
    weights["last.weight"] = 0.02 * torch.randn(weights["last.weight"].shape, generator=draw, dtype=torch.float64)
    path = store.weights_path("ach")
    network_files.save(path, weights, {"station": "ach"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    report = {"filter": settings.filter.model_dump(mode="json"), "design": "gain"}
    store.write_parameters("ach", replace(found, taught=Taught(digest, report)).content())
    return [steps.Outcome("ach", "")]


def test_the_command_scores_a_deployment_that_is_there(alone, tmp_path, monkeypatch, capsys):
    """Without any data folder; what was forecast is not forecast again."""
    own = replace(SMALLEST, test=("2003-06-10", "2003-06-30"))
    short = replace(sun2026.QUICK, rivers=("ach",), days=2, search=Effort(filter=(1, 5)), ensemble=(1, 5))
    monkeypatch.setitem(RIVERS, "ach", own)
    monkeypatch.setattr(sun2026, "QUICK", short)
    monkeypatch.setattr(sun2026_rows, "MEMBERS", 6)
    monkeypatch.setattr(steps, "train", taught)
    monkeypatch.setenv("HYDRODA_REAL_DATA", str(tmp_path / "nowhere"))
    command = ["reproduce", "sun2026", "--quick", "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (alone.parent / sun2026_report.PAGE).read_text() in printed and str(alone.parent / "sun2026.png") in printed
    assert all(f"NSE, ach, {forcing} in the lead hours" in printed for forcing in sun2026_report.FORCINGS.values())
    found = {r["forcing"]: r for r in json.loads((alone.parent / "sun2026.json").read_text())}
    assert all(r["n"] == [48 * len(r["by_draw"])] * len(LEADS) for r in found.values())
    assert [len(r["by_draw"]) for r in found.values()] == [1, 2, 1]  # degraded rain was drawn twice
    forecasts = [found[name]["nse"]["open_loop"] for name in ("observed", "archived", "none")]
    assert forecasts[0] != forecasts[1] != forecasts[2]  # each has other rain
    persistence = [r["nse"]["persistence"][0] for r in found.values()]
    assert persistence == pytest.approx([persistence[0]] * 3)
    for forcing, nse in ((forcing, r["nse"]) for forcing, r in found.items()):
        # all were taught the same here: those of each seed apart have their mean
        others = {"error_levels", "gain_leads_1_to_3", "own_parameters"} & nse.keys()
        assert len(others) == (1 if forcing == "archived" else 3)
        for name in others:
            assert nse[name] == pytest.approx(nse["networks"], abs=1e-4)
        several = {tuple(nse[name]) for name in ("filter", "ukf_1h", "enkf", "seed_1", "seed_2", "networks")}
        assert len(several) == 6 and np.isfinite(np.array([*several], float)).all()
    archives = {path: path.stat().st_mtime_ns for path in alone.rglob("hindcast/*/*.nc")}
    assert len(archives) == 3 * 5 + 2 * 2  # two other designs do without degraded rain
    assert main(command) == 0
    assert capsys.readouterr().out == printed
    assert {path: path.stat().st_mtime_ns for path in archives} == archives


def test_rows_are_of_the_calibration_that_is_there(alone):
    settings = load(alone / "hydroda.toml")
    taught(settings)
    study = replace(sun2026.QUICK, search=Effort(filter=(1, 5)))
    ukf, _, networks, *others = sun2026_rows.rows(settings, "ach", SMALLEST, study)
    assert [row.name for row in others] == ["error_levels", "gain_leads_1_to_3", "own_parameters"]
    assert ukf.name == "ukf_1h" and networks.name == "networks"

    def parameters(row: sun2026_rows.Row) -> calibrated.Calibrated:
        one = sun2026_rows.variant(settings, "ach", row, alone / "rows", silent)
        return calibrated.restore(store_of(one).read_parameters("ach"))

    made = parameters(ukf)
    base = calibrated.restore(store_of(settings).read_parameters("ach"))
    assert made.taught is None and made.errors != base.errors and made.correction == base.correction
    assert made.residual_hours == (0.0, 0.0)
    own = {p.name for p in build_model(base.model, base.temperature).parameters if p.role == "filter"}
    assert {n: v for n, v in made.parameters.items() if n not in own} == {
        n: v for n, v in base.parameters.items() if n not in own
    }
    never = replace(ukf, made=lambda one, base, kept, progress: kept)
    assert parameters(never) == made  # once made it is kept
    store_of(settings).write_parameters("ach", replace(base, report=base.report | {"nse": 0.0}).content())
    seen = replace(ukf, made=lambda one, base, kept, progress: base if kept is None else pytest.fail("of another"))
    assert parameters(seen).report["nse"] == 0.0
    assert {*sum(parameters(networks).choice.values(), ())} == {"networks"}


def test_several_rivers_are_taught_at_once_and_one_is_not(settings, tmp_path, monkeypatch):
    """The last has the networks of the others, and their model; where there are fewer than three nothing is made."""
    for key, value in (("WINDOW", 48), ("LENGTH", 72), ("CHUNK", 200), ("WARM", 24)):
        monkeypatch.setattr(gains, key, value)
    deployments = {"ach": settings, "bregenz": settings}
    study = replace(sun2026.QUICK, search=Effort((1, 5), (1, 5)), training=learning.Effort(1, 1, 2))
    for name in deployments:
        monkeypatch.setitem(RIVERS, name, replace(SMALLEST, taught=("2003-01-21", "2003-04-20T23")))
    assert sun2026_together.together(deployments, tmp_path / "both", study, silent) is None
    monkeypatch.setattr(sun2026_together, "LEAST", 2)
    lagged = settings.model_copy(update={"model": Model(name="hbv.lagged")})
    sun2026_rows.calibrate(lagged, "bregenz", study, silent)
    one, unseen = sun2026_together.together(deployments, tmp_path / "both", study, silent)
    assert unseen == "bregenz" and [each.id for each in one.catchments] == ["ach", "bregenz"]
    store = store_of(one)
    reports = [store.read_parameters(name)["taught"]["report"] for name in ("ach", "bregenz")]
    assert [report["taught_on"] for report in reports] == [["ach"], ["ach"]]
    assert store_of(settings).read_parameters("ach")["taught"] is None  # the deployment itself is left alone
    assert store_of(settings).read_parameters("bregenz")["model"] == "hbv.lagged"
    assert store.read_parameters("bregenz")["model"] == "hbv.hourly"
    before = store.weights_path("bregenz").stat().st_mtime_ns
    assert sun2026_together.together(deployments, tmp_path / "both", study, silent) is not None
    assert store.weights_path("bregenz").stat().st_mtime_ns == before
    base = calibrated.restore(store_of(settings).read_parameters("bregenz"))
    own = replace(base, taught=Taught("0", {"design": "gain"}))
    store_of(settings).write_parameters("bregenz", own.content())
    row = sun2026_rows.rows(settings, "bregenz", SMALLEST, sun2026.QUICK, (one, unseen))[-1]
    assert row.name == "taught_elsewhere"
    made = sun2026_rows.variant(settings, "bregenz", row, tmp_path / "rows", silent)
    assert store_of(made).weights_path("bregenz").read_bytes() == store.weights_path("bregenz").read_bytes()
    found = calibrated.restore(store_of(made).read_parameters("bregenz"))
    assert {*sum(found.choice.values(), ())} == {"networks"} and found.taught.report["taught_on"] == ["ach"]
    assert found.model == "hbv.hourly"  # that the networks are for


def test_blocks_are_weeks():
    assert sun2026_scores.BLOCK / HOUR == 168 and sun2026_scores.DRAWS == 1000
