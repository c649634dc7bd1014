"""Weather forecasts of the past decide what is issued with such weather: where there are enough, and only there."""

import numpy as np
import pytest
import torch
from conftest import CALIBRATED_UNTIL, EFFORT, FIRST, START

from hydroda import generator, steps
from hydroda.calibrating import history, judging, stretches
from hydroda.forecast import window
from hydroda.forecast.known import forecast_table
from hydroda.running import hindcasting
from hydroda.schema import LEADS, hours
from hydroda.storage import netcdf, records
from hydroda.units import HOUR

TOLD_FROM = START + 40 * 24 * HOUR
TUNED_FROM = START + 20 * 24 * HOUR


@pytest.fixture
def told(settings):
    """The deployment with archived weather for "ach", but for the first forty days, which rains too much by half."""
    store = steps.store_of(settings)
    stretch = hours(START, FIRST + 48 * HOUR)
    seen = store.observations(["ach"], stretch[0], stretch[-1])
    order = np.argsort(seen["time"].values, kind="stable")
    dry = np.zeros(stretch.size)
    rain, warmth = dry.copy(), dry.copy()
    at = (seen["time"].values[order] - stretch[0]) // HOUR
    for column, name in ((rain, "precipitation"), (warmth, "temperature")):
        values = seen[name].values[order] if name in seen else np.full(at.size, np.nan)
        column[at[np.isfinite(values)]] = values[np.isfinite(values)]
    columns = generator.forecasts([generator.Sky("ach", stretch, 1.5 * rain, warmth)], TOLD_FROM)
    values = {name: columns[name] for name in ("precipitation", "temperature")}
    made = records.build(columns["station"], columns["time"], columns["known"], values, columns["reference_time"])
    assert not store.append(made).problems
    return settings


def record_of(settings, station="ach"):
    store = steps.store_of(settings)
    return history.record_of(settings, store, settings.catchment(station), "hbv.hourly", TUNED_FROM, CALIBRATED_UNTIL)


def test_lead_hours_have_the_weather_that_was_forecast_by_then(told):
    record, store = record_of(told), steps.store_of(told)
    view = window.load(
        store.observations(["ach"], record.hours[0], record.hours[-1]),
        [window.Place("ach", 40.0, record.limits, record.climate)],
        record.hours,
        None,
    )
    first = int((TOLD_FROM - record.hours[0]) // HOUR)
    issue = np.array([first - 60, first + 30, first + 301, first + 1202])
    at = torch.from_numpy(issue + LEADS[:, None])
    forcing = record.archived(at).numpy()
    assert forcing.shape == (LEADS.size, issue.size, len(record.model.forcings))
    assert np.isnan(forcing[:, 0]).all() and np.isfinite(forcing[:, 1:]).all()
    table = forecast_table(store.forecasts(["ach"], record.hours[0], record.hours[-1]), ["ach"])
    for i in (1, 2, 3):
        known_by = told.known_by(record.hours[issue[i]])
        lead = window.lead(view, int(issue[i]), "archived", record.model.forcings, table, known_by)
        np.testing.assert_array_equal(forcing[:, i], lead.forcing[:, 0])
    rain = record.model.forcings.index("precipitation")
    assert (forcing[:, 1:, rain] != record.forcing[at.numpy()[:, 1:], rain]).any()


def test_no_weather_forecasts_are_none(told):
    assert record_of(told, "bregenz").archived is None


def calibrated(settings):
    results = steps.calibrate(settings, ["ach"], TUNED_FROM, CALIBRATED_UNTIL, effort=EFFORT)
    assert not results[0].failed
    return steps.store_of(settings).read_parameters("ach")


def test_what_is_issued_with_forecast_weather_is_found_with_such(told, monkeypatch):
    before = steps.store_of(told).read_parameters("ach")
    content = calibrated(told)
    assert set(before["choice"]) == set(before["spread"]) == {"observed", "none"}
    assert set(content["choice"]) == set(content["spread"]) == {"observed", "none", "archived"}
    for kind in ("observed", "none"):  # what there was before is found as before
        assert content["spread"][kind] == before["spread"][kind] and content["choice"][kind] == before["choice"][kind]
    assert content["spread"]["archived"] != content["spread"]["observed"]
    monkeypatch.setattr(judging, "TOLD", 24.0 * 365)
    assert set(calibrated(told)["choice"]) == {"observed", "none"}


def test_a_forecast_takes_what_was_found_for_its_weather(told):
    store = steps.store_of(told)
    content = store.read_parameters("ach")
    names = {"observed": "filter", "none": "open_loop", "archived": "ar1_error"}
    content["choice"] = {kind: [name] * LEADS.size for kind, name in names.items()}
    content["spread"]["archived"] = (3.0 * np.array(content["spread"]["observed"])).tolist()
    store.write_parameters("ach", content)
    wide = {}
    for kind in names:
        (path,) = hindcasting.hindcast(told, FIRST, FIRST + HOUR, forcing=kind)
        month = netcdf.read(path).sel(station="ach")
        wide[kind] = np.log(month["discharge_q95"] / month["discharge_q05"]).values[0]
        part = month["discharge_filter"].values[0]
        assert np.allclose(month["discharge"].values[0], part) == (kind == "observed")
    assert (wide["archived"] > 2.0 * wide["observed"]).all()


def test_forecasts_without_weather_do_not_count():
    found = stretches.Forecasts(*(np.arange(12.0).reshape(2, 6) for _ in stretches.Forecasts._fields))
    holes = found.open_loop.copy()
    holes[1, [0, 4]] = np.nan
    kept = stretches.with_weather(found._replace(open_loop=holes, of_networks=None, issue=np.arange(6)))
    assert kept.issue.tolist() == [1, 2, 3, 5] and kept.of_networks is None
    assert kept.of_filter.shape == (2, 4)
