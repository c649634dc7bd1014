"""The steps on a small deployment: from a raw file to a page, and what is said when something is wrong."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from conftest import CALIBRATED_UNTIL, EFFORT, FIRST, SMALL, START, complaints, compliance

from hydroda import domain, quality, steps
from hydroda.__main__ import main
from hydroda.forecast import calibrated
from hydroda.forecast.correction import BASELINES
from hydroda.forecast.known import as_known
from hydroda.publishing.acceptance import check
from hydroda.schema import hours
from hydroda.settings_file import SettingsError, load
from hydroda.sources.intake import Refused
from hydroda.steps import store_of
from hydroda.storage import netcdf
from hydroda.units import HOUR, iso, utc_now
from hydroda.verifying import scoring, verification

CSV = "time,precipitation,discharge\n" + "".join(f"{np.datetime64(START, 's') + i * HOUR},0.1,2.5\n" for i in range(4))


def test_init_writes_a_file_that_loads_and_never_overwrites_one(tmp_path):
    path = steps.init(tmp_path / "new")
    assert load(path).deployment.domain == "local"
    path.write_text(SMALL)
    with pytest.raises(FileExistsError, match="left as it is"):
        steps.init(tmp_path / "new")
    assert path.read_text() == SMALL


def test_adding_a_catchment_fills_settings_and_store(tmp_path):
    config = steps.init(tmp_path)
    (tmp_path / "g.csv").write_text(CSV)
    counts = steps.add_catchment(config, "inn", tmp_path / "g.csv", 12.5, lat=47.0, name="Inn & Sill")
    settings = load(config)
    assert counts.new == 4
    assert (settings.catchment("inn").area_km2, settings.catchment("inn").name) == (12.5, "Inn & Sill")
    assert store_of(settings).newest("inn") == START + 3 * HOUR
    assert steps.uncalibrated(settings) == ["inn"]


@pytest.mark.parametrize(
    ("station", "text", "area", "error", "said"),
    [
        ("inn", CSV.replace("2.5", "2.5 m3/s"), 12.5, Refused, "discharge"),
        ("inn", CSV.replace("time", "when"), 12.5, Refused, "time"),
        ("inn", CSV, -3.0, SettingsError, "greater than 0"),
        ("../inn", CSV, 3.0, SettingsError, "1 to 32 of a-z"),
    ],
)
def test_what_cannot_be_added_changes_nothing(tmp_path, station, text, area, error, said):
    config = steps.init(tmp_path)
    before = config.read_text()
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(error, match=said):
        steps.add_catchment(config, station, tmp_path / "g.csv", area)
    assert config.read_text() == before
    assert not list(tmp_path.rglob("*.nc"))


def test_a_drop_folder_is_ingested_once_and_revisions_count(settings):
    inbox = settings.file.parent / "inbox"
    inbox.mkdir()
    settings.file.write_text(SMALL + '[[source]]\nname = "gauges"\nkind = "csv_folder"\nfolder = "inbox"\n')
    mine = load(settings.file)
    (inbox / "ach_1.csv").write_text("time,discharge\n2003-07-01T01:00,3.0\n2003-07-01T02:00,3.1\n")
    assert steps.ingest(mine, "gauges").new == 2
    assert steps.ingest(mine, "gauges").new == 0
    (inbox / "ach_2.csv").write_text("time,discharge\n2003-07-01T02:00,3.3\n2003-07-01T01:00,3.0\n")
    counts = steps.ingest(mine, "gauges")
    assert counts.revised == 1
    assert counts.new == 0
    with pytest.raises(KeyError, match="'gages' is not in"):
        steps.ingest(mine, "gages")


def test_what_could_not_be_written_is_read_again(settings):
    settings.file.write_text(SMALL + '[[source]]\nname = "gauges"\nkind = "csv_folder"\nfolder = "inbox"\n')
    mine = load(settings.file)
    inbox = settings.file.parent / "inbox"
    inbox.mkdir()
    (inbox / "ach.csv").write_text("time,precipitation,discharge\n2002-06-11T00:00,0.5,7.5\n")
    blocked = store_of(mine).folder / "observations" / "ach"
    blocked.rename(blocked.with_name("aside"))
    blocked.write_text("in the way")
    counts = steps.ingest(mine, "gauges")
    assert (counts.unwritten, counts.new) == (1, 0) and "not written" in counts.problems[0]
    blocked.unlink()
    blocked.with_name("aside").rename(blocked)
    assert steps.ingest(mine, "gauges").new > 0


def test_a_made_up_source_feeds_a_live_run(settings):
    """From nothing but a source and parameters: fetch, start cold, publish for the hour that is due."""
    shutil.rmtree(store_of(settings).folder / "observations")
    settings.file.write_text(SMALL + '[[source]]\nname = "made-up"\nkind = "synthetic"\n')
    mine = load(settings.file)
    assert steps.ingest(mine, "made-up").new > 2000
    cycle = mine.cycle_at(utc_now())
    done = steps.run(mine, cycle)
    product = check(netcdf.read(done.files[0]))
    assert product.attrs["hydroda_cycle"] == iso(cycle)
    assert np.isfinite(product.discharge.values).all()
    findings = steps.check(mine)
    assert not [finding for finding in findings if finding.level == "error"]
    assert any("the newest cycle is" in finding.what for finding in findings)


def test_check_names_what_is_wrong_and_what_to_do(settings):
    store = store_of(settings)
    store.parameters_path("ach").write_text("{")
    shutil.rmtree(store.folder / "observations" / "bregenz")
    settings.file.write_text(SMALL + '[[source]]\nname = "g"\nkind = "csv_folder"\nfolder = "nowhere"\n')
    errors = [finding for finding in steps.check(load(settings.file)) if finding.level == "error"]
    said = " ".join(finding.what for finding in errors)
    assert "ach.json" in said
    assert "bregenz: there is no discharge" in said
    assert "nowhere is not there" in said
    assert all(finding.remedy for finding in errors)


def test_calibration_of_one_that_cannot_be_does_not_stop_the_other(settings):
    shutil.rmtree(store_of(settings).folder / "observations" / "ach")
    before = store_of(settings).parameters_path("bregenz").read_text()
    results = steps.calibrate(settings, ["ach", "bregenz"], START + 480 * HOUR, CALIBRATED_UNTIL, effort=EFFORT)
    assert [result.failed for result in results] == [True, False]
    assert "ach: there are no observations" in results[0].summary
    assert store_of(settings).parameters_path("bregenz").read_text() == before  # the same search finds the same


def test_parameters_survive_their_file_and_foreign_ones_are_refused(settings, tmp_path):
    content = store_of(settings).read_parameters("ach")
    assert calibrated.restore(content).content() == calibrated.restore(json.loads(json.dumps(content))).content()
    for wrong, said in (
        ({**content, "format": "other"}, "format"),
        ({k: v for k, v in content.items() if k != "limits"}, "incomplete"),
        ({**content, "spread": {"observed": [[1.0]]}}, "2 sides of 6 classes of 24 factors"),
        ({**content, "spread": {"observed": [[[1.0]], [[1.0, 2.0]]]}}, "incomplete or foreign"),
        ({**content, "choice": {"observed": ["magic"] * 24}}, r"choice for 'observed' is \['magic'\], expected one of"),
        ({**content, "format": "hydroda calibration 1"}, "calibrate again"),
    ):
        with pytest.raises(ValueError, match=said):
            calibrated.restore(wrong)
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert steps.adopt(settings, "ach", tmp_path / "p.json").exists()
    with pytest.raises(ValueError, match="is of 'ach'"):
        steps.adopt(settings, "bregenz", tmp_path / "p.json")


@pytest.mark.parametrize("key", ["parameters", "errors"])
def test_parameters_of_another_model_lose_their_station_only(settings, key):
    store = store_of(settings)
    content = store.read_parameters("ach")
    content[key].pop(next(iter(content[key])))
    store.write_parameters("ach", content)
    done = steps.run(settings, FIRST)
    assert done.state == "degraded"
    assert f"ach {key} of hbv.hourly are" in done.message


def test_hindcast_verify_and_report(settings):
    end = FIRST + 400 * HOUR
    seen = []
    paths = steps.hindcast(settings, FIRST, end, progress=lambda fraction, text: seen.append((fraction, text)))
    assert len(paths) == 1
    assert seen[-1] == (1.0, iso(end))
    stamp = paths[0].stat().st_mtime_ns
    assert steps.hindcast(settings, FIRST, end) == paths
    assert paths[0].stat().st_mtime_ns == stamp  # it was there already
    path = steps.verify(settings, FIRST, end)
    check(path)
    scores = scoring.read(path)
    assert scores.attrs["hydroda_forcing"] == "observed"
    assert set(verification.METHODS) <= set(scores.method.values.tolist()) <= set(verification.LABELS)
    assert int(scores.n.min()) > 300
    table = steps.score_table(path, all_leads=True)
    assert "perfect foresight" in table
    assert json.loads(json.dumps(steps.score_json(path)))["stations"].keys() == {"ach", "bregenz"}
    assert steps.skill_figure(path).read_bytes().startswith(b"\x89PNG")
    steps.run(settings, FIRST)
    page = steps.report(settings).read_text()
    assert "ach" in page
    assert "<svg" in page
    assert iso(FIRST) in steps.forecast_table(settings)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in steps.hydrographs(settings))


def test_an_archive_of_hindcasts_follows_cf(settings):
    (path,) = steps.hindcast(settings, FIRST, FIRST + 3 * HOUR)
    tests = compliance([path], "cf:1.8")[path.name]
    assert tests["cf:1.8"]["possible_points"] > 50
    assert not complaints(tests["cf:1.8"], "high", "medium", "low")
    archive = netcdf.read(path)
    assert archive.forecast_period.attrs["standard_name"] == "forecast_period"
    assert archive.discharge.attrs["standard_name"] == "water_volume_transport_in_river_channel"


def test_what_was_published_can_be_scored(settings):
    cycles = [FIRST + i * HOUR for i in range(12)]
    for cycle in cycles:
        steps.run(settings, cycle)
    scores = scoring.read(steps.verify(settings, cycles[0], cycles[-1], kind="operational"))
    assert scores.attrs["hydroda_issue_times"] == 12
    assert int(scores.n.max()) == 12
    steps.hindcast(settings, cycles[0], cycles[-1], forcing="none")
    again = scoring.read(steps.verify(settings, cycles[0], cycles[-1], forcing="none"))
    for name in BASELINES:  # from what was observed newest in either
        one, other = (each.rmse.sel({"method": name}) for each in (scores, again))
        np.testing.assert_allclose(one, other, rtol=5e-3)
    assert not np.allclose(again.rmse.sel({"method": "trend"}), again.rmse.sel({"method": "persistence"}), rtol=1e-3)


def test_a_published_forecast_knew_a_trend_where_the_last_two_hours_were_sure(monkeypatch):
    discharge = np.full((48, 5), np.nan)
    discharge[-2:, 0], discharge[-3:-1, 1], discharge[-2:, 2], discharge[[0, -1], 3] = (1, 3), (2, 7), (1, 3), (5, 9)
    discharge[-2:, 4] = 1, 3
    qc = np.ones(discharge.shape, int)
    qc[-2, 2] = qc[-1, 3] = quality.FAIL
    qc[-1, 4] = quality.SUSPECT
    monkeypatch.setattr(scoring.window, "flags", lambda *_: qc)
    view = SimpleNamespace(values={"discharge": discharge})
    found = scoring._at_issue(view, np.ones(discharge.shape), 0, 47)
    np.testing.assert_array_equal(found["observed"], [3.0, 7.0, 3.0, 5.0, 3.0])
    np.testing.assert_array_equal(found["change"], [2.0, 5.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found["age"], [0.0, 1.0, 0.0, 47.0, 0.0])


def test_there_must_be_something_to_score(settings):
    with pytest.raises(ValueError, match="hydroda hindcast"):
        steps.verify(settings, FIRST, FIRST + 5 * HOUR)
    with pytest.raises(ValueError, match="no forecasts were published"):
        steps.verify(settings, FIRST, FIRST + 5 * HOUR, kind="operational")
    for forcing in ("observed", "none"):
        steps.hindcast(settings, FIRST, FIRST + 5 * HOUR, forcing=forcing)
    with pytest.raises(ValueError, match="observed and none"):
        steps.verify(settings, FIRST, FIRST + 5 * HOUR)


def test_what_failed_quality_control_is_not_scored(monkeypatch):
    stretch = hours(FIRST - scoring.CONTEXT * HOUR, FIRST + 24 * HOUR)
    qc, discharge = np.ones((stretch.size, 1), int), np.arange(float(stretch.size))[:, None]
    qc[[3, 7], 0] = quality.FAIL, quality.SUSPECT
    view = SimpleNamespace(settled={"qc": qc}, values={"discharge": discharge})
    monkeypatch.setattr(scoring.window, "load", lambda *_: view)
    store, members = SimpleNamespace(observations=lambda *_: None), [SimpleNamespace(station="ach")]
    found = scoring._observed(SimpleNamespace(members=members, places=(), store=store), FIRST, FIRST)
    assert np.flatnonzero(np.isnan(found.values[:, 0])).tolist() == [3] and found.time.values[-1] == stretch[-1]


def test_a_domain_knows_its_places_in_the_order_of_the_settings(settings):
    found = domain.load(settings)
    assert [place.id for place in found.places] == [station.id for station in found.stations] == ["ach", "bregenz"]
    assert found.area.tolist() == [40.0, 160.0]


REAL = Path(os.environ.get("HYDRODA_REAL_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real catchments are not in {REAL}; HYDRODA_REAL_DATA says where")
@pytest.mark.parametrize(
    ("name", "area"), [("dornbirnerach", 114.8), ("l0123003", 920.0), ("posina", 111.5), ("wye", 10.6)]
)
def test_a_real_file_is_taken_as_it_is(tmp_path, name, area):
    """No row is refused, and quality control throws no flood away."""
    config = steps.init(tmp_path)
    counts = steps.add_catchment(config, name, REAL / name / f"{name}_hourly.csv.gz", area)
    assert (counts.rejected, counts.problems) == (0, ())
    store = store_of(load(config))
    year = store.newest(name).astype("datetime64[Y]").astype("datetime64[ns]")
    stretch = hours(year, store.newest(name))
    records = store.observations([name], stretch[0], stretch[-1])
    discharge = as_known(records, [name], stretch)["discharge"]
    limits = quality.limits_from(discharge[:, 0], area)
    qc = quality.aggregate(quality.flags(discharge, [limits]))[:, 0]
    seen = np.isfinite(discharge[:, 0])
    high = discharge[:, 0] >= np.nanquantile(discharge[:, 0], 0.999)
    assert (qc[high] != quality.FAIL).all()
    stuck = name == "posina"  # its gauge stood still for weeks of 1997, as its provenance says
    assert np.mean(qc[seen] == quality.FAIL) < (0.5 if stuck else 0.01)


def analyses(settings, ratios: dict[str, np.ndarray]) -> None:
    """Keeps normalised innovations by days, as the analyses of a deployment; the newest cycle is the last hour."""
    store, count = store_of(settings), len(next(iter(ratios.values())))
    time = hours(START, START + (count - 1) * HOUR)
    values = xr.Dataset(
        {"normalised_innovation": (("time", "station"), np.stack(list(ratios.values()), -1))},
        {"time": time, "station_id": ("station", list(ratios))},  # as `day.analysis` has them
    )
    for first in range(0, count, 24):
        netcdf.write(values.isel(time=slice(first, first + 24)), store.product_path("an", time[first]))
    netcdf.write(xr.Dataset({"none": ((), 0.0)}), store.belief_path(time[-1]), record_dim=None)


def test_check_says_which_station_errs_more_than_it_says(tmp_path, capsys):
    """Through the command line, in words a forecaster knows; nothing of a station that is right, or has too few."""
    (tmp_path / "hydroda.toml").write_text(SMALL.replace("'ach'", "'inn'"))
    settings = load(tmp_path / "hydroda.toml")
    random = np.random.default_rng(4)
    chance = random.standard_normal((3, 14 * 24))
    lasting = chance[2].copy()
    for k in range(1, lasting.size):
        lasting[k] = 0.8 * lasting[k - 1] + 0.6 * chance[2, k]
    few = np.where(np.arange(14 * 24) < 20, 9.0, np.nan)

    def said(**ratios: np.ndarray) -> list[str]:
        analyses(settings, ratios)
        assert main(["check", "--config", str(settings.file)]) == 1  # there are no data
        return [line for line in capsys.readouterr().out.splitlines() if "last 14 days" in line]

    assert said(inn=chance[0], bregenz=few) == []
    (line,) = said(inn=chance[0], bregenz=2.0 * chance[1])
    assert line.startswith("warning bregenz, last 14 days: errors an hour ahead are 2.1 times as large as stated, so")
    assert "band more often than it should" in line and "pattern" not in line
    (line,) = said(inn=0.5 * chance[0], bregenz=chance[1])
    assert re.search("inn, last 14 days: errors .* 0.[45][0-9]? times as large .* published band is too wide$", line)
    (line,) = said(inn=chance[0], bregenz=lasting)
    assert line.endswith("errors follow a pattern: that of one hour foretells the next")
    (line,) = said(inn=chance[0] - 1.0, bregenz=few)
    assert "the river is mostly lower than forecast" in line
    assert said(elsewhere=3.0 * chance[0], bregenz=np.full(14 * 24, np.nan)) == []
