"""Pictures: what is known is drawn, what is not known is said, and ill data never spoil the picture."""

import re
import warnings
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr

from hydroda.forecast import correction, predictive
from hydroda.forecast.correction import Correction
from hydroda.pages import drawing, figures
from hydroda.publishing import day, products
from hydroda.publishing.attributes import Provenance
from hydroda.publishing.fields import Station
from hydroda.schema import LEADS, QUANTILES, quantile_name
from hydroda.units import HOUR
from hydroda.verifying import verification

CYCLE = np.datetime64("2025-11-22T03:00", "ns")
PAST = CYCLE + np.arange(-71, 1) * HOUR
FORECASTS = ("discharge", *map(quantile_name, QUANTILES))


def case(names=("Alder",), thresholds=(60.0, 100.0), scale=1.0, **provenance):
    """A flood that comes in the lead hours: forecast, analysis with its open loop, rain (time, station_id)."""
    stations = [Station(f"s{k}", 50.0, name, thresholds=thresholds) for k, name in enumerate(names)]
    told = Provenance(
        "demo", CYCLE, "run-1", "hydroda run", **{"model": "hbv.hourly", "filter": "sigma.ukf", **provenance}
    )
    hour = np.arange(-71, 25)[:, None] + np.arange(len(names))
    flow = scale * (5 + 80 * np.exp(-(((hour - 10) / 8.0) ** 2)))
    past, ahead = flow[:72], flow[72:]
    analysis = day.analysis(
        stations,
        told,
        PAST,
        estimate=past,
        standard_error=0.1 * past,
        background=past,
        observed=1.02 * past,
        observed_qc=np.ones(past.shape, np.int8),
    )
    analysis["discharge_open_loop"] = analysis.discharge.copy(data=(0.8 * past).astype(np.float32))
    spread = np.array([0.04, 0.06])[:, None, None] * np.sqrt(LEADS)[:, None] * np.ones(ahead.shape)
    status = np.ones(ahead.shape, np.int8)
    forecast = products.forecast(stations, told, CYCLE, ahead, spread, 0.8 * ahead, status)
    times = np.concatenate([PAST, forecast.time.values])
    rain = np.where((hour > -6) & (hour < 6), 7.0, 0.0)
    coords = {"time": times, "station_id": [station.id for station in stations]}
    return forecast, analysis, xr.DataArray(rain, coords, ("time", "station_id"))


def single(**options):
    forecast, analysis, rain = case(**options)
    parts = forecast.isel(station=0), analysis.isel(station=0), rain.isel(station_id=0)
    return tuple(part.copy(deep=True) for part in parts)


@cache
def made_scores(stations, count):
    random = np.random.default_rng(1)
    issue = CYCLE - np.arange(count, 0, -1) * HOUR
    hours = np.concatenate([issue, issue[-1] + LEADS * HOUR])
    truth = 10 + 5 * np.sin(np.arange(hours.size) / 9)[:, None] + random.random((hours.size, len(stations)))
    ahead = truth[np.arange(count)[:, None] + LEADS]
    spread = np.broadcast_to(0.02 * np.sqrt(LEADS)[:, None], ahead.shape)
    columns = {quantile_name(q): predictive.quantile(ahead, (spread, spread), q) for q in QUANTILES}
    columns |= {
        "discharge": ahead * np.exp(spread * random.normal(size=ahead.shape)),
        "discharge_open_loop": 0.8 * ahead,
    }
    archive = xr.Dataset({name: (verification.DIMS, values) for name, values in columns.items()})
    for name, values in (("observed_at_issue", truth), ("open_loop_at_issue", 0.8 * truth)):
        archive[name] = (("forecast_reference_time", "station"), values[:count])
    archive = archive.assign_coords(forecast_reference_time=issue, forecast_period=LEADS, station=list(stations))
    archive.attrs = {"domain": "demo", "forcing": "observed", "model": "hbv.hourly", "filter": "sigma.ukf"}
    observed = xr.DataArray(truth, {"time": hours, "station": list(stations)}, ("time", "station"))
    fitted = Correction((500.0,) * 366, 3.0, 0.1, 0.8, 0.05, 0.02, 0.9)
    return verification.verify([archive], observed, dict.fromkeys(stations, fitted))


def scores(stations=("s0", "s1"), count=60):
    """Scores of made-up forecasts, as `verify` gives them; the baselines know nothing of the river."""
    return made_scores(tuple(stations), count).copy(deep=True)


def texts(svg):
    """Everything written in a picture."""
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    return [" ".join((word or "").split()) for word in words]


def drawn(*parts):
    """A hydrograph as SVG, without a single warning on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return drawing.svg(figures.hydrograph(*parts), "Hydrograph")


def lost(forecast, names=FORECASTS):
    for name in names:
        forecast[name][:] = np.nan
    forecast.discharge_status[:] = 9
    return forecast


def axes_of(*parts):
    return figures.hydrograph(*parts).axes


def labels(axes):
    return set(axes.get_legend_handles_labels()[1])


def test_a_hydrograph_says_what_matters():
    forecast, past, rain = single()
    said = texts(drawn(forecast, past, rain))
    for words in (
        "Alder",
        "issued Sat 22 Nov 03:00 UTC",
        "observed",
        "analysis",
        "forecast (median)",
        "50 % interval",
        "90 % interval",
        "open loop",
        "discharge [m³/s]",
        "warning level 1: 60",
        "warning level 2: 100",
        "Sun 23 Nov",
    ):
        assert words in said, words
    peak = forecast.isel(time=9)  # made 10 h ahead
    low, high = (drawing.flow(float(peak[name])) for name in ("discharge_q05", "discharge_q95"))
    assert f"highest forecast in 24 h 85.0 m³/s (90 %: {low} to {high}) at Sat 22 Nov 13:00 UTC" in said
    assert not {"observed, doubtful", "no rain forecast", "no forecast"} & set(said)


def test_the_lines_are_the_data():
    forecast, past, rain = single()
    _, axes = axes_of(forecast, past, rain)
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["analysis"], past.discharge)
    np.testing.assert_array_equal(lines["observed"], past.discharge_observed)
    median = lines["forecast (median)"]
    assert median[0] == past.discharge[-1]  # goes on from the analysis
    np.testing.assert_array_equal(median[1:], forecast.discharge)


def test_the_same_data_give_the_same_bytes():
    assert drawn(*single()) == drawn(*single())
    assert drawing.png(figures.hydrograph(*single())) == drawing.png(figures.hydrograph(*single()))
    found = scores(["s0"])
    assert drawing.svg(figures.skill_by_lead(found)) == drawing.svg(figures.skill_by_lead(found))


def test_what_is_after_the_cycle_or_long_ago_is_not_shown():
    forecast, past, rain = single()
    earlier = past.assign_coords(time=past.time - 72 * HOUR)
    later = past.isel(time=slice(0, 5)).assign_coords(time=CYCLE + np.arange(1, 6) * HOUR)
    assert drawn(forecast, xr.concat([earlier, past, later], "time", data_vars="minimal"), rain) == drawn(
        forecast, past, rain
    )


def test_an_hour_that_is_not_there_is_a_gap():
    forecast, past, rain = single()
    _, axes = axes_of(forecast, past.isel(time=[*range(20), *range(30, 72)]), rain)
    (line,) = [line for line in axes.get_lines() if line.get_label() == "analysis"]
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == list(range(20, 30))


def test_without_past_and_rain_there_is_still_the_forecast():
    said = texts(drawn(single()[0]))
    assert {"forecast (median)", "no rain forecast", "issued Sat 22 Nov 03:00 UTC"} <= set(said)
    assert not {"observed", "analysis"} & set(said)
    old = single()[1].assign_coords(time=PAST - 720 * HOUR)
    ahead = single()[1].assign_coords(time=PAST + 72 * HOUR)
    assert drawn(single()[0], old) == drawn(single()[0], ahead) == drawn(single()[0])


@pytest.mark.parametrize("hours", [1, 2, 72])
def test_the_time_of_issue_is_not_cut_off(hours):
    forecast, past, _ = single()
    figure = figures.hydrograph(forecast, past.isel(time=slice(72 - hours, None)))
    figure.draw_without_rendering()
    (text,) = [text for text in figure.axes[1].texts if "issued" in text.get_text()]
    box, frame = text.get_window_extent(), figure.axes[1].get_window_extent()
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1


def test_a_gauge_that_is_silent_is_named():
    forecast, past, rain = single()
    past.discharge_observed[:] = np.nan
    past.discharge_observed_qc[:] = 9
    said = texts(drawn(forecast, past, rain))
    assert "no observation in the last 72 h" in said and "observed" not in said


def test_doubtful_observations_are_marked_and_do_not_stretch_the_axis():
    forecast, past, rain = single()
    usual = axes_of(forecast, past, rain)[1].get_ylim()
    past.discharge_observed[30:33] = 9000.0
    past.discharge_observed_qc[30:33] = 4
    past.discharge_observed_qc[50] = 3
    _, axes = axes_of(forecast, past, rain)
    assert axes.get_ylim() == usual
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert np.flatnonzero(np.isfinite(lines["observed, doubtful"])).tolist() == [30, 31, 32, 50]
    assert np.flatnonzero(np.isnan(lines["observed"])).tolist() == [30, 31, 32, 50]
    assert "above the chart: 3 doubtful observations" in texts(drawn(forecast, past, rain))


def test_a_missing_forecast_is_said_and_the_past_is_shown():
    forecast, past, rain = single()
    said = texts(drawn(lost(forecast), past, rain))
    assert said.count("no forecast") == 2 and "Alder – missing" in said
    assert "forecast (median)" not in said and {"observed", "open loop"} <= set(said)


def test_nothing_at_all_is_a_picture_too():
    forecast, past, _ = single()
    lost(forecast, (*FORECASTS, "discharge_open_loop"))
    for name in ("discharge", "discharge_observed", "discharge_open_loop"):
        past[name][:] = np.nan
    said = texts(drawn(forecast, past, None))
    assert {"no forecast", "no rain forecast", "no observation in the last 72 h"} <= set(said)
    assert "above the chart: warning level 1 (60 m³/s), level 2 (100 m³/s)" in said


def test_a_dry_river_is_a_picture_too():
    forecast, past, rain = single(scale=0.0)
    assert "highest forecast in 24 h 0.000 m³/s (90 %: 0.000 to 0.000) at Sat 22 Nov 04:00 UTC" in texts(
        drawn(forecast, past, rain)
    )


def test_one_missing_hour_leaves_the_rest():
    forecast, past, rain = single()
    lost_hour = {"time": 9}
    for name in FORECASTS:
        forecast[name][lost_hour] = np.nan
    forecast.discharge_status[lost_hour] = 9
    said = texts(drawn(forecast, past, rain))
    assert "Alder – missing (1 of 24 h)" in said and "forecast (median)" in said


@pytest.mark.parametrize(("flag", "words"), [(2, "no recent observation"), (3, "degraded forcing"), (4, "unusable")])
def test_the_status_stands_in_the_title(flag, words):
    forecast, past, rain = single()
    forecast.discharge_status[:] = flag
    assert f"Alder – {words}" in texts(drawn(forecast, past, rain))


def test_rain_that_is_not_known_is_not_dry():
    forecast, past, rain = single()
    rain[72:] = np.nan
    assert "no rain forecast" in texts(drawn(forecast, past, rain))
    rain[72:80] = 0.0
    assert "hatched: forecast, grey: not known" in texts(drawn(forecast, past, rain))
    short = rain.isel(time=slice(0, 80))
    assert drawn(forecast, past, short) == drawn(forecast, past, rain)


def test_rain_hangs_over_the_hour_that_ends_at_its_stamp():
    forecast, past, rain = single()
    rain[:] = 0.0
    rain[70] = 5.0
    top, _ = axes_of(forecast, past, rain)
    fallen = next(patch for patch in top.patches if getattr(patch, "get_data", None))
    values, edges, _ = fallen.get_data()
    assert values[70] == 5.0 and np.nansum(values) == 5.0
    assert edges[71] - edges[70] == pytest.approx(1 / 24) and top.convert_xunits(PAST[70]) == pytest.approx(edges[71])
    assert top.get_ylim()[0] > top.get_ylim()[1]


def test_far_levels_are_named_and_do_not_flatten_the_hydrograph():
    near, far = (axes_of(*single(thresholds=levels))[1].get_ylim()[1] for levels in ((), (5000.0, 9000.0)))
    assert near == far
    said = texts(drawn(*single(thresholds=(5000.0, 9000.0))))
    assert "above the chart: warning level 1 (5000 m³/s), level 2 (9000 m³/s)" in said


def test_close_levels_share_a_label():
    said = texts(drawn(*single(thresholds=(30.0, 60.0, 62.0))))
    assert {"warning level 1: 30", "warning level 2: 60, 3: 62"} <= set(said)


def test_an_endless_tail_runs_out_of_the_chart():
    forecast, past, rain = single()
    forecast["discharge_q95"][:] = 1e6
    assert axes_of(forecast, past, rain)[1].get_ylim()[1] < 400


@pytest.mark.parametrize(
    "name", ["<b>A&B</b>", "costs $5 and $6", r"$\frac{", "愛知川", "Große Ach", "x" * 300, "two\nlines"]
)
def test_any_name_is_text(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.hydrograph(*single(names=(name,)))
        said = texts(drawing.svg(figure))
        assert drawing.png(figure, dpi=40)[:4] == b"\x89PNG"
    shown = " ".join(name.split())
    assert shown in said or f"{shown[:59]}…" in said


def test_an_svg_is_small_and_has_a_name_and_its_own_ids():
    figure = figures.hydrograph(*single())
    first, second = drawing.svg(figure, 'Alder "A&B" <b>'), drawing.svg(figure, "Birch")
    assert len(first) < 60_000
    root = ElementTree.fromstring(first)
    assert root.get("role") == "img" and root.get("aria-label") == 'Alder "A&B" <b>'
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'href="#([^"]+)"', first)) | set(re.findall(r"url\(#([^)]+)\)", first))
    assert used and used <= ids[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12346"),
        (177.4, "177"),
        (99.96, "100"),
        (45.67, "45.7"),
        (9.996, "10.0"),
        (2.284, "2.28"),
        (0.0042, "0.004"),
        (0.0, "0.000"),
        (np.nan, "–"),
    ],
)
def test_flows_are_written_without_powers_of_ten(value, text):
    assert drawing.flow(value) == text


@pytest.mark.parametrize(
    ("chance", "text"),
    [(0.0, "0 %"), (0.003, "< 1 %"), (0.5, "50 %"), (0.9999, "> 99 %"), (1.0, "100 %"), (np.nan, "–")],
)
def test_only_the_certain_is_certain(chance, text):
    assert drawing.percent(chance) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.0, "0 h"), (0.2, "12 min"), (3.0, "3 h"), (71.0, "71 h"), (96.0, "4 days")]
)
def test_ages(hours, text):
    assert drawing.age(hours) == text


# --- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7])
def test_every_station_has_a_panel_of_every_method(count):
    found = scores([f"st-{k}" for k in range(count)])
    figure = figures.skill_by_lead(found)
    assert len(figure.axes) == count
    for axes, station in zip(figure.axes, found.station.values, strict=True):
        assert axes.get_title(loc="left") == f"{station}, n = 60"
        lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        for method in verification.METHODS:
            label = verification.LABELS[method]
            np.testing.assert_array_equal(lines[label], found.nse.sel(station=station).sel({"method": method}))
        assert (axes.get_xlabel().splitlines()[0], axes.get_ylabel()) == ("lead time [h]", "NSE")
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {verification.LABELS[method] for method in verification.METHODS}
    assert set(verification.METHODS) == {"forecast", *correction.BASELINES}


def test_a_baseline_far_away_leaves_the_axis_and_is_named():
    figure = figures.skill_by_lead(scores(["s0"]))
    assert figure.axes[0].get_ylim()[0] > -50
    end = float(scores(["s0"]).nse.sel(station="s0", forecast_period=24).sel({"method": "climatology"}))
    assert end < -1000 and f"climatology {end:.2f}" in figure.axes[0].get_xlabel().replace("\n", " ")


@pytest.mark.parametrize("score", list(verification.BY_METHOD))
def test_every_score_can_be_drawn(score):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = " ".join(texts(drawing.svg(figures.skill_by_lead(scores(["s0"]), score))))
    unit = {"m3 s-1": "[m³/s]", "percent": "[%]"}.get(verification.BY_METHOD[score].units)
    assert unit is None or unit in said


def test_a_station_without_scores_says_so():
    found = scores()
    for name in (*verification.BY_METHOD, *verification.OF_FORECAST):
        found[name] = found[name].where(found.station != "s1")
    found["n"] = found.n.where(found.station != "s1", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (figures.skill_by_lead, figures.coverage_by_lead):
            said = texts(drawing.svg(draw(found)))
            assert said.count("no forecast could be scored") == 1 and "s1, n = 0" in said


def test_panels_do_not_overlap_each_other_or_the_legend():
    figure = figures.skill_by_lead(scores([f"st-{k}" for k in range(5)]), columns=2)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [figure.legends[0].get_window_extent()]
    for k, one in enumerate(boxes):
        assert not [other for other in boxes[k + 1 :] if one.overlaps(other)]
        assert one.x0 >= 0 and one.y0 >= 0 and one.x1 <= figure.bbox.x1 and one.y1 <= figure.bbox.y1


def test_coverage_is_drawn_beside_what_it_should_be():
    found = scores(["s0"])
    axes = figures.coverage_by_lead(found).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["inside the 90 % interval"], found.coverage_90.values[:, 0])
    np.testing.assert_array_equal(lines["inside the 50 % interval"], found.coverage_50.values[:, 0])
    level = [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert level == [90, 50]
