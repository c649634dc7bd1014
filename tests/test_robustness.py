"""What is silent, breaks down, is older than the settings or is asked for wrongly costs no more than it must."""

import hashlib
import os

import numpy as np
import pytest
import torch
from conftest import FIRST, START, with_networks

from hydroda import domain, inspection, schema, steps, units
from hydroda.__main__ import main
from hydroda.domain import store_of
from hydroda.forecast import network_files
from hydroda.forecast.choice import FILTER, METHODS
from hydroda.pages import reporting
from hydroda.publishing import publish
from hydroda.publishing.fields import MISSING
from hydroda.running import groups, operation
from hydroda.settings_file import load
from hydroda.storage import netcdf, records
from hydroda.units import HOUR, utc_now

BOTH_TAUGHT = {"ach": "gain", "bregenz": "gain"}


def with_weights(settings, station, change):
    """The networks of a station with other weights, as if they had been trained to these."""
    store = store_of(settings)
    path, content = store.weights_path(station), store.read_parameters(station)
    weights, about = network_files.load(path)
    network_files.save(path, change(weights), about)
    content["taught"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    store.write_parameters(station, content)


def choose(settings, method):
    """Lets every lead of every station be issued by a method."""
    store = store_of(settings)
    for station in BOTH_TAUGHT:
        content = store.read_parameters(station)
        content["choice"] = dict.fromkeys(content["choice"], [method] * schema.LEADS.size)
        store.write_parameters(station, content)


@pytest.mark.parametrize("taught", [{}, BOTH_TAUGHT])
@pytest.mark.parametrize("method", METHODS)
def test_a_gauge_that_was_silent_for_longer_than_the_window_is_forecast_by_every_method(settings, taught, method):
    with_networks(settings, taught)
    choose(settings, method)
    newest = store_of(settings).newest("ach")
    steps.run(settings, newest + 5 * HOUR)
    done = steps.run(settings, newest + (settings.cycle.window_hours + 3) * HOUR)
    product = netcdf.read(done.files[0])
    assert np.isfinite(product.discharge.values).all() and "obs_missing:2" in done.message
    assert (product.discharge_q95.values > product.discharge_q05.values).all()


def test_a_station_without_one_of_its_leads_is_counted_as_missing(settings, monkeypatch):
    real = operation.outlook

    def outlook(*arguments):
        (ahead,), after = real(*arguments)
        status = ahead.status.copy()
        status[3, 0] = MISSING
        return [ahead._replace(status=status)], after

    monkeypatch.setattr(operation, "outlook", outlook)
    assert "forecast_missing:1" in steps.run(settings, FIRST).message


@pytest.mark.parametrize("order", [("ach", "bregenz"), ("bregenz", "ach")])
def test_networks_with_and_without_parameters_of_their_own_run_side_by_side(settings, order):
    with_networks(settings, BOTH_TAUGHT)
    count = 3, len(store_of(settings).read_parameters(order[0])["parameters"])
    moved = {"parameters": torch.full(count, 0.4, dtype=torch.float64)}
    with_weights(settings, order[0], lambda weights: weights | moved)
    found, lacking = groups.grouped(domain.load(settings))
    assert {group.ids: "parameters" in group.batch.networks for group in found} == {order[:1]: True, order[1:]: False}
    done = steps.run(settings, FIRST)
    assert not lacking and np.isfinite(netcdf.read(done.files[0]).discharge.values).all()
    assert "networks_missing" not in done.message


def test_networks_that_break_down_leave_the_filter_beside_them_alone(settings):
    with_networks(settings, BOTH_TAUGHT)
    plain = netcdf.read(steps.run(settings, FIRST).files[1])
    with_weights(settings, "ach", lambda weights: weights | {"last.bias": weights["last.bias"] * torch.nan})
    done = steps.run(settings, FIRST, force=True)
    product, analysis = (netcdf.read(path) for path in done.files[:2])
    assert np.array_equal(analysis.discharge.values, plain.discharge.values) and "belief_reset" not in done.message
    assert np.isfinite(product.discharge.values).all()


def test_pictures_are_of_the_stations_of_the_forecast_whatever_the_settings_say_since(settings, monkeypatch):
    steps.run(settings, FIRST)
    text = settings.file.read_text()
    first, second = text.index("[[catchment]]"), text.rindex("[[catchment]]")
    another = "[[catchment]]\nid = 'new'\narea_km2 = 3.0\n"
    settings.file.write_text(text[:first] + another + text[second:] + text[first:second])
    drawn = []
    monkeypatch.setattr(
        reporting.figures,
        "hydrograph",
        lambda forecast, past, rain: drawn.append([str(part.station_id.values) for part in (forecast, past, rain)]),
    )
    monkeypatch.setattr(reporting.drawing, "png", lambda figure: b"")
    paths = steps.hydrographs(load(settings.file))
    assert drawn == [["ach"] * 3, ["bregenz"] * 3]
    assert [path.stem for path in paths] == ["hydrograph_ach", "hydrograph_bregenz"]


def test_the_page_shows_days_from_before_a_bias_was_estimated(settings):
    steps.run(settings, FIRST - 24 * HOUR)
    settings.file.write_text(settings.file.read_text() + "[[filter.modifier]]\nname = 'bias.two_stage'\n")
    biased = load(settings.file)
    steps.run(biased, FIRST)
    assert "hydrograph" in steps.report(biased).read_text().lower()


def test_the_page_shows_the_scores_that_rest_on_most_forecasts_of_the_newest_day(settings, monkeypatch):
    for back in range(5):
        steps.run(settings, FIRST + (back - 5) * HOUR)
    monkeypatch.setattr(reporting, "ENOUGH", 2)
    monkeypatch.setattr(operation, "utc_now", utc_now)
    long = steps.verify(settings, FIRST - 49 * HOUR, FIRST - 2 * HOUR, kind="operational")
    short = steps.verify(settings, FIRST - 4 * HOUR, FIRST - 2 * HOUR, kind="operational")
    assert long != short and long.exists() and short.exists()
    shown = reporting._scores(reporting.domains.load(settings))
    assert shown.attrs["hydroda_issue_times"] == netcdf.read(long).attrs["hydroda_issue_times"]


def test_a_cycle_that_failed_is_made_again(settings, monkeypatch):
    real = operation.outlook

    def outlook(*arguments):
        (ahead,), after = real(*arguments)
        nothing = np.full_like(ahead.median, np.nan)
        return [ahead._replace(status=np.full_like(ahead.status, MISSING), median=nothing)], after

    with monkeypatch.context() as broken:
        broken.setattr(operation, "outlook", outlook)
        assert steps.run(settings, FIRST).state == "failed"
    done = steps.run(settings, FIRST)
    assert done.state != "skipped" and (netcdf.read(done.files[0]).discharge_status.values != MISSING).all()
    assert steps.run(settings, FIRST).state == "skipped"


def test_a_filter_that_states_no_error_is_refused_before_it_is_run(settings, monkeypatch, tmp_path):
    real = groups.cycle.assimilate

    def silent(*arguments):
        for analysis in real(*arguments):
            yield analysis._replace(standard_error=analysis.standard_error * torch.nan)

    monkeypatch.setattr(groups.cycle, "assimilate", silent)
    (found,) = [each for each in inspection.inspect(settings, utc_now()) if "states no error" in each.what]
    assert found.level == "error" and "ach, bregenz" in found.what


def test_check_says_which_catchment_has_another_model_than_the_settings(settings):
    settings.file.write_text(settings.file.read_text() + "[model]\nname = 'hbv.lagged'\n")
    found = [each.what for each in inspection.inspect(load(settings.file), utc_now()) if "[model]" in each.what]
    assert [what.split()[0] for what in found] == ["ach", "bregenz"]


def test_a_setting_that_a_later_version_has_besides_changes_no_belief_and_no_networks(settings):
    with_networks(settings, BOTH_TAUGHT)
    store = store_of(settings)
    for station in BOTH_TAUGHT:
        content = store.read_parameters(station)
        assert content["taught"]["report"]["filter"].pop("networks")
        store.write_parameters(station, content)
    assert "networks_missing" not in steps.run(settings, FIRST).message
    product = netcdf.read(store.product_path("fc", FIRST))
    assert (product.discharge_method.values != 1 + METHODS.index(FILTER)).any()


def test_a_catchment_without_rain_is_not_calibrated(settings):
    store = store_of(settings)
    time = schema.hours(START, START + 100 * 24 * HOUR)
    flow = {"discharge": 1.0 + 0.1 * np.sin(np.arange(time.size) / 9.0)}
    store.append(records.build(["dry"] * time.size, time, time, flow))
    settings.file.write_text(settings.file.read_text() + "[[catchment]]\nid = 'dry'\narea_km2 = 5.0\n")
    (done,) = steps.calibrate(load(settings.file), ["dry"], START, time[-1])
    assert done.failed and "dry: only 0% of the hours" in done.summary and "add its precipitation" in done.summary


def test_networks_are_not_put_beside_a_calibration_they_were_not_trained_beside(settings, monkeypatch):
    from hydroda.teaching import pupils

    store = store_of(settings)
    content = store.read_parameters("ach")

    def lesson(*_):
        store.write_parameters("ach", content | {"highest": 1.0 + (content["highest"] or 0.0)})
        return [None]

    monkeypatch.setattr(pupils.learning, "learned", lesson)
    with pytest.raises(AttributeError):  # a lesson that is none: the calibration of before is taken as it stands
        monkeypatch.setattr(pupils.learning, "learned", lambda *_: [None])
        steps.train(settings, ["ach"])
    monkeypatch.setattr(pupils.learning, "learned", lesson)
    (done,) = steps.train(settings, ["ach"])
    assert done.failed and "ach: was calibrated again while its networks were trained" in done.summary


def test_a_hindcast_product_that_is_damaged_is_made_again(settings, caplog):
    steps.hindcast(settings, FIRST, FIRST, products=True)
    path = store_of(settings).product_path("fc-hindcast", FIRST)
    whole = netcdf.read(path)
    path.write_bytes(path.read_bytes()[:500])
    publish.publish({path: whole})
    assert "it is made again" in caplog.text
    assert (netcdf.read(path).discharge_status.values == whole.discharge_status.values).all()


def test_hindcasts_made_while_networks_could_not_be_used_are_made_again(settings):
    with_networks(settings, BOTH_TAUGHT)
    path = store_of(settings).weights_path("ach")
    hidden = path.rename(path.with_suffix(".away"))
    (kept,) = steps.hindcast(settings, FIRST, FIRST + 2 * HOUR)
    without = netcdf.read(kept).attrs
    hidden.rename(path)
    steps.hindcast(settings, FIRST, FIRST + 2 * HOUR)
    found = netcdf.read(kept)
    assert found.attrs["hydroda_weights_sha256"] != without["hydroda_weights_sha256"]
    assert np.isfinite(found.sel(station="ach")["discharge_networks"].values).any()


@pytest.mark.parametrize("text", ["2999-01-01", "9999-12-31", "1500-01-01"])
def test_times_beyond_what_can_be_counted_are_refused(text):
    with pytest.raises(ValueError, match="times from 1678 to 2261"):
        units.parse_utc(text)


def test_hours_end_where_the_period_does_and_of_none_there_are_no_months():
    start = np.datetime64("2003-01-01T00:00", "ns")
    assert schema.hours(start, start + np.timedelta64(150, "m")).size == 3
    assert schema.hours(start, start - HOUR).size == 0 and schema.months(schema.hours(start, start - HOUR)) == []


def test_steps_refuse_what_is_no_period(settings):
    half, later = FIRST + np.timedelta64(30, "m"), FIRST + HOUR
    for step in (steps.hindcast, steps.verify, lambda s, *period: steps.calibrate(s, ["ach"], *period)):
        with pytest.raises(ValueError, match="full hour"):
            step(settings, half, later)
        with pytest.raises(ValueError, match="before it starts"):
            step(settings, later, FIRST)


def test_a_catchment_is_added_to_settings_with_the_line_ends_of_windows(settings, tmp_path):
    settings.file.write_bytes(settings.file.read_bytes().replace(b"\n", b"\r\n"))
    before = settings.file.read_bytes()
    csv = tmp_path / "inn.csv"
    csv.write_text("time,precipitation,discharge\n2003-01-01T01:00,0.0,2.31\n2003-01-01T02:00,0.4,2.30\n")
    assert main(["add-catchment", "inn", str(csv), "--area-km2", "4", "--config", str(settings.file)]) == 0
    assert settings.file.read_bytes().startswith(before)
    assert load(settings.file).catchment("inn").area_km2 == 4.0


def whats(settings):
    return [f"{found.level}: {found.what}" for found in inspection.inspect(settings, utc_now())]


def test_check_says_what_the_newest_forecast_lacks(settings, monkeypatch):
    real = operation.outlook

    def outlook(*arguments):
        (ahead,), after = real(*arguments)
        status = ahead.status.copy()
        status[:, 1] = MISSING
        return [ahead._replace(status=status)], after

    monkeypatch.setattr(operation, "outlook", outlook)
    steps.run(settings, FIRST)
    said = whats(settings)
    assert "error: bregenz: the newest cycle has no forecast, or not for all hours" in said
    assert not [line for line in said if line.startswith("error: ach: the newest")]
    assert "warning: the newest forecast is less than it could be: no forecast came out (1 station)" in said
    assert not [line for line in said if "without a weather forecast" in line]  # the settings want none


def test_check_names_files_of_the_store_that_are_damaged_or_were(settings):
    path = store_of(settings).folder / "observations" / "ach" / "2003.nc"
    path.write_bytes(path.read_bytes()[:20_000])
    assert [line for line in whats(settings) if line.startswith("error: ") and str(path) in line]
    time = schema.hours(FIRST, FIRST)
    store_of(settings).append(records.build(["ach"], time, time, {"discharge": np.ones(1)}))
    (aside,) = [line for line in whats(settings) if "was damaged and set aside" in line]
    assert f"{path}.damaged-" in aside


def test_check_names_files_that_could_not_be_read(settings, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source = f"[[source]]\nname = 'g'\nkind = 'csv_folder'\nfolder = '{inbox}'\n"
    settings.file.write_text(settings.file.read_text() + source)
    mine, bad = load(settings.file), inbox / "ach.csv"
    bad.write_text("time,discharge\nyesterday,1\n")
    os.utime(bad, (1e9, 1e9))
    for tries in range(3):
        steps.ingest(mine, "g")
        (said,) = [line for line in whats(mine) if "could not be read" in line]
        assert str(bad if tries < 2 else inbox / "failed" / "ach.csv") in said


def test_a_folder_is_no_file_of_a_catchment(settings, tmp_path, capsys):
    before = settings.file.read_bytes()
    arguments = ["add-catchment", "inn", str(tmp_path), "--area-km2", "4", "--config", str(settings.file)]
    assert main(arguments) == 1 and "is a folder; name the one file of inn" in capsys.readouterr().err
    assert settings.file.read_bytes() == before


def test_without_a_belief_and_an_observation_of_the_window_there_is_nothing_to_forecast_from(settings):
    store = store_of(settings)
    after = store.newest("ach") + 40 * HOUR
    done = steps.run(settings, after)
    assert done.state == "failed" and not done.files and "the newest discharge is of" in done.message
    assert store.cycles("fc") == [] and steps.missed(settings, after + HOUR) == []
    steps.run(settings, after - 15 * HOUR)
    assert steps.run(settings, after).state != "failed"  # the state of fifteen hours ago is something
    assert steps.missed(settings, after + 4 * HOUR) == [after + i * HOUR for i in (1, 2, 3)]
    assert steps.missed(settings, after + 500 * HOUR) == []  # nothing is known of any of these hours


def test_a_trend_of_long_ago_is_none(settings):
    newest = store_of(settings).newest("ach")
    issued = {}
    for method in ("trend", FILTER):
        choose(settings, method)
        for age in (5, 8):
            product = netcdf.read(steps.run(settings, newest + age * HOUR, force=True).files[0])
            issued[method, age] = product.discharge.values
            told = method if age == 5 else FILTER
            assert (product.discharge_method.values == 1 + METHODS.index(told)).all()
    assert (issued["trend", 5] != issued[FILTER, 5]).any()
    assert np.array_equal(issued["trend", 8], issued[FILTER, 8])
