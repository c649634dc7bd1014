"""What goes wrong at night: each fault is said, stays with its catchment, and takes nothing from what is stored."""

import json
import re

import numpy as np
import pytest
from conftest import FIRST, GAUGES, START, with_networks

from hydroda import steps
from hydroda.__main__ import main
from hydroda.calibrating import history
from hydroda.domain import store_of
from hydroda.forecast import known
from hydroda.forecast.choice import FILTER, METHODS
from hydroda.forecast.correction import BASELINES
from hydroda.publishing.acceptance import check
from hydroda.publishing.fields import MISSING
from hydroda.running import archive, operation
from hydroda.settings_file import load
from hydroda.sources.intake import Refused
from hydroda.storage import netcdf, records
from hydroda.units import HOUR, iso, utc_now
from hydroda.verifying import scoring


def edited(settings, station, change):
    """The parameters of a station, changed."""
    store = store_of(settings)
    content = store.read_parameters(station)
    change(content)
    store.write_parameters(station, content)


def test_a_weather_forecast_that_cannot_be_is_none_and_an_older_run_speaks_for_it():
    """Ten hours by three runs; of the newest all, of the one before the first five are no weather."""
    time = np.tile(FIRST + np.arange(1, 11) * HOUR, 3)
    run = np.repeat(FIRST - np.array([12, 6, 0]) * HOUR, 10)
    rain = np.repeat([1.0, 2.0, 3.0], 10)
    rain[10:15], rain[20:25], rain[25:] = 9999.0, -999.0, np.inf
    told = records.build(["ach"] * 30, time, run, {"precipitation": rain}, run)
    table = known.forecast_table(told, ["ach"])
    values, references = known.newest_forecast(table, time[:10], FIRST)
    np.testing.assert_array_equal(values["precipitation"][:, 0], [1.0] * 5 + [2.0] * 5)
    np.testing.assert_array_equal(references["precipitation"][:, 0], np.repeat([run[0], run[10]], 5))


def test_a_sentinel_is_no_climate(settings):
    store, catchment = store_of(settings), settings.catchment("ach")

    def climate():
        return history.record_of(settings, store, catchment, "hbv.hourly", START, FIRST).climate

    before = climate()
    some = records.select(store.observations(["ach"], START, FIRST), np.arange(0, 2000, 20))
    for name in ("pet", "temperature"):
        some[name].values[:] = -999.0
    store.append(some.assign_coords(known=("record", some["known"].values + HOUR)), now=FIRST)
    after = climate()
    assert after.pet_mm_per_year == pytest.approx(before.pet_mm_per_year, rel=0.02)
    np.testing.assert_allclose(after.temperature, before.temperature, atol=0.5)


def test_a_cycle_that_is_not_due_is_refused_and_nothing_is_forgotten(settings):
    steps.run(settings, FIRST)
    beliefs = store_of(settings).cycles("belief")
    for cycle in (np.datetime64("2099-01-01T00", "ns"), settings.cycle_at(utc_now()) + 2 * HOUR):
        with pytest.raises(ValueError, match=f"{iso(cycle)} is not due yet; the newest cycle is"):
            steps.run(settings, cycle)
    assert store_of(settings).cycles("belief") == beliefs
    assert json.loads(store_of(settings).latest_path().read_text())["cycle"] == iso(FIRST)


def test_a_catchment_that_fails_among_others_fails_alone(settings, monkeypatch):
    """They are one batch; what makes one of them fail makes the batch fail, and then each is tried alone."""
    whole = netcdf.read(steps.run(settings, FIRST).files[0])
    real = operation.outlook

    def outlook(group, *arguments):
        if "ach" in group.ids:
            raise FloatingPointError("singular")
        return real(group, *arguments)

    monkeypatch.setattr(operation, "outlook", outlook)
    done = steps.run(settings, FIRST, force=True)
    product = check(netcdf.read(done.files[0]))
    assert done.state == "degraded" and "ach FloatingPointError: singular" in done.message
    assert product.attrs["hydroda_degraded"].endswith("station_failed:1")
    assert (product.discharge_status.values[:, 0] == MISSING).all()
    np.testing.assert_allclose(product.discharge.values[:, 1], whole.discharge.values[:, 1], rtol=1e-6)


def test_a_catchment_that_fails_keeps_its_analyses_of_the_day(settings):
    for i in range(3):
        steps.run(settings, FIRST + i * HOUR)
    path = store_of(settings).product_path("an", FIRST)
    before = netcdf.read(path)
    edited(settings, "ach", lambda content: content.update(format="another"))
    steps.run(settings, FIRST + 3 * HOUR)
    after = check(path)
    assert after.station_id.values.tolist() == before.station_id.values.tolist() == ["ach", "bregenz"]
    kept = after.sel(time=before.time)
    np.testing.assert_array_equal(kept.discharge.values[:, 0], before.discharge.values[:, 0])
    np.testing.assert_array_equal(kept.discharge_observed_qc.values[:, 0], before.discharge_observed_qc.values[:, 0])
    newest = after.isel(time=-1)
    assert np.isnan(newest.discharge.values[0]) and np.isfinite(newest.discharge.values[1])


def test_without_its_networks_a_forecast_is_the_filters_and_says_so(settings):
    with_networks(settings, {"ach": "gain"})
    store_of(settings).weights_path("ach").unlink()
    done = steps.run(settings, FIRST)
    product = netcdf.read(done.files[0])
    assert (product.discharge_method.values[:, 0] == 1 + METHODS.index(FILTER)).all()
    assert "networks_missing:1" in product.attrs["hydroda_degraded"].split(",")
    assert "comment" not in product.discharge_method.attrs  # nothing stood back


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(area_km2=400.0), "was calibrated with an area of 400 km2, the settings say 40"),
        (lambda c: c["errors"].update(gauge=["a", "b"]), r"errors.gauge is \('a', 'b'\), expected numbers"),
        (lambda c: c["limits"].update(floor="x"), "limits.floor is 'x', expected numbers"),
        (lambda c: c.update(highest="x"), "highest is 'x', expected numbers"),
        (lambda c: c.update(residual_hours=["x", 1.0]), r"residual_hours is \('x', 1.0\), expected numbers"),
    ],
)
def test_parameters_that_do_not_fit_lose_their_station_only(settings, change, words):
    edited(settings, "ach", change)
    done = steps.run(settings, FIRST)
    assert done.state == "degraded"
    np.testing.assert_array_equal(np.isfinite(netcdf.read(done.files[0]).discharge.values).all(0), [False, True])
    assert re.search(words, done.message)


def test_calibration_keeps_the_area(settings):
    areas = [store_of(settings).read_parameters(name)["area_km2"] for name, _ in GAUGES]
    assert areas == [area for _, area in GAUGES]


def test_a_damaged_forecast_is_made_again_and_an_older_one_shown(settings, caplog):
    older = steps.run(settings, FIRST)
    newest = steps.run(settings, FIRST + HOUR).files[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert iso(FIRST) in steps.forecast_table(settings)
    assert "an older forecast is shown" in caplog.text
    assert steps.run(settings, FIRST).state == "skipped"
    assert steps.run(settings, FIRST + HOUR).state != "skipped"
    check(newest)
    older.files[0].write_bytes(b"")
    newest.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 2 forecasts .* can be read"):
        steps.verify(settings, FIRST, FIRST + HOUR, kind="operational")
    with pytest.raises(FileNotFoundError, match="no forecast that can be read"):
        steps.forecast_table(settings)


def test_a_gauge_that_is_always_late_is_scored_as_published(settings):
    """What was known at the cut-off of a cycle is older than an hour; that is what the baselines start from."""
    store = store_of(settings)
    late = store.observations(["bregenz"], START, FIRST + 40 * HOUR)
    path = store.folder / "observations" / "bregenz" / "2003.nc"
    path.unlink()
    netcdf.sidecar_path(path).unlink()
    store.append(late.assign_coords(known=("record", late["time"].values + 2 * HOUR)), now=FIRST + 900 * HOUR)
    cycles = [FIRST + i * HOUR for i in range(6)]
    for cycle in cycles:
        steps.run(settings, cycle)
    published = scoring.read(steps.verify(settings, cycles[0], cycles[-1], kind="operational"))
    assert int(published.n.sel(station="bregenz").min()) == len(cycles)
    steps.hindcast(settings, cycles[0], cycles[-1], forcing="none")
    again = scoring.read(steps.verify(settings, cycles[0], cycles[-1], forcing="none"))
    for name in BASELINES:
        one, other = (each.rmse.sel({"method": name}) for each in (published, again))
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_hindcasts_are_made_again_where_their_data_changed(settings):
    end = FIRST + 20 * HOUR
    (path,) = steps.hindcast(settings, FIRST, end)
    before, stamp = netcdf.read(path), path.stat().st_mtime_ns
    steps.hindcast(settings, FIRST, end)
    assert path.stat().st_mtime_ns == stamp
    store = store_of(settings)

    def corrected(hour):
        some = store.observations(["bregenz"], hour, hour)
        some["discharge"].values[:] *= 1.02
        store.append(some.assign_coords(known=("record", some["time"].values + np.timedelta64(1, "m"))), now=end)

    corrected(FIRST + 5 * HOUR)
    steps.hindcast(settings, FIRST, end)
    after = netcdf.read(path)
    same = (after.discharge == before.discharge).all(("forecast_period", "station")).values
    assert same[:5].all() and not same[5:].any()
    corrected(FIRST + 15 * HOUR)
    steps.hindcast(settings, FIRST + 12 * HOUR, end)  # what is not asked for stays
    parted = netcdf.read(path)
    assert parted.discharge[:12].identical(after.discharge[:12])
    steps.hindcast(settings, FIRST, end)  # but does not count as of today's data
    whole, stamp = netcdf.read(path), path.stat().st_mtime_ns
    assert not whole.discharge[16:].identical(after.discharge[16:])
    assert whole.attrs[archive.INPUTS] != parted.attrs[archive.INPUTS] == archive.MIXED
    steps.hindcast(settings, FIRST, end)
    assert path.stat().st_mtime_ns == stamp


def test_a_month_begins_where_the_one_before_ended(settings):
    """Data of May that are corrected change the hindcasts of June."""
    period = np.datetime64("2003-05-31T00", "ns"), np.datetime64("2003-06-01T12", "ns")
    _, june = steps.hindcast(settings, *period)
    before = netcdf.read(june)
    store = store_of(settings)
    some = store.observations(["bregenz"], period[0] - 24 * HOUR, period[0])
    some["precipitation"].values[:] += 2.0
    known_at = some["time"].values + np.timedelta64(1, "m")
    store.append(some.assign_coords(known=("record", known_at)), now=period[1])
    steps.hindcast(settings, *period)
    assert not netcdf.read(june).discharge.identical(before.discharge)


@pytest.mark.parametrize("period", [("2003-06-10T00:30", "2003-06-10T03"), ("2003-06-10T00", "2003-06-10T03:15")])
def test_a_period_has_full_hours(settings, period, monkeypatch, capsys):
    monkeypatch.chdir(settings.file.parent)
    assert main(["hindcast", *period]) == 2
    assert "is not a full hour" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is not a full hour"):
        steps.hindcast(settings, *(np.datetime64(time, "ns") for time in period))
    assert main(["hindcast", "2003-06-10T06", "2003-06-10T06"]) == 0  # one hour is a period


def test_a_file_without_a_usable_row_adds_no_catchment(settings, tmp_path):
    before = settings.file.read_text()
    (tmp_path / "empty.csv").write_text("time,precipitation,discharge\n")
    with pytest.raises(Refused, match="no row can be used for new"):
        steps.add_catchment(settings.file, "new", tmp_path / "empty.csv", 10.0)
    assert settings.file.read_text() == before
    assert load(settings.file).catchments == settings.catchments


def test_check_tries_the_filter_and_names_missing_networks(settings, capsys, monkeypatch):
    monkeypatch.chdir(settings.file.parent)
    with_networks(settings, {"ach": "gain"})
    store_of(settings).weights_path("ach").unlink()
    main(["check"])
    assert "ach: its networks cannot be used" in capsys.readouterr().out
    settings.file.write_text(settings.file.read_text() + '[filter]\nname = "linear.kalman"\n')
    assert main(["check"]) == 1
    assert "ach, bregenz: linear.kalman needs a linear system" in capsys.readouterr().out
    edited(settings, "bregenz", lambda content: content["errors"].pop("gauge"))
    main(["check"])
    assert "bregenz errors of hbv.hourly are" in capsys.readouterr().out


def test_a_cycle_without_any_forecast_has_failed(settings, monkeypatch):
    real = operation.outlook

    def outlook(*arguments):
        (ahead,), after = real(*arguments)
        return [ahead._replace(status=np.full_like(ahead.status, MISSING))], after

    monkeypatch.setattr(operation, "outlook", outlook)
    done = steps.run(settings, FIRST)
    assert done.state == "failed" and done.message.startswith("no catchment has a forecast: forecast_missing:2")
