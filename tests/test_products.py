"""Products: what downstream readers expect of a file, and what no run, however ill, can make us publish."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import complaints, compliance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydroda.forecast.correction import Correction
from hydroda.publishing import day, products
from hydroda.publishing.acceptance import ProductError, check
from hydroda.publishing.attributes import Credits, Provenance
from hydroda.publishing.fields import Station
from hydroda.publishing.publish import announce, publish
from hydroda.quality import TESTS
from hydroda.schema import SchemaError, quantile_name
from hydroda.settings import Deployment
from hydroda.storage import netcdf
from hydroda.verifying import verification

HOUR = np.timedelta64(1, "h")
CYCLE = np.datetime64("2025-11-22T03:00", "ns")
PROVENANCE = Provenance("demo", np.datetime64("2025-11-22T03:12:00", "ns"), "run-1", "hydroda run", model="hbv.hourly")
STATIONS = {
    "three": (
        Station("alder", 114.8, "Große Alder", 47.41, 9.74, 465.0, (60.0, 100.0)),
        Station("birch-2", 50.0, "", 47.5, 9.8, 400.0, (30.0,)),
        Station("cedar_3", 10.0, "愛知川", 48.0, 10.0),
    ),
    "two_one_unplaced": (Station("alder", 114.8, "Alder", 47.4, 9.7, 465.0), Station("birch-2", 50.0)),
    "one": (Station("alder", 114.8, "Alder", -33.4, -70.7, 465.0, (60.0,)),),
    "one_unplaced": (Station("alder", 114.8),),
}
MEMBERS = 7
PARTS = ("estimate", "standard_error", "background", "observed", "observed_qc", "tests")


def flows(stations, hours, seed=0, members=None):
    shape = (hours, len(stations)) if members is None else (hours, members, len(stations))
    return np.random.default_rng(seed).gamma(2, 20, shape)


def forecast(stations=STATIONS["three"], cycle=CYCLE, seed=0, provenance=PROVENANCE):
    """A forecast whose last station says nothing, if there are several, and whose first misses an hour."""
    median = flows(stations, 24, seed)
    median[5, 0] = np.nan
    if len(stations) > 1:
        median[:, -1] = np.nan
    status = np.full(median.shape, 2, np.int8)
    return products.forecast(
        stations, provenance, cycle, median, np.full((2, *median.shape), 0.3), 0.9 * median, status
    )


def ensemble(stations=STATIONS["three"], cycle=CYCLE, seed=0):
    members = flows(stations, 24, seed, MEMBERS)
    members[3, 2, 0] = np.nan
    return products.ensemble(stations, PROVENANCE, cycle, members, np.ones((24, len(stations)), np.int8))


def analysis(stations=STATIONS["three"], start="2025-11-22T00", hours=4, seed=0, provenance=PROVENANCE):
    times = np.datetime64(start, "ns") + np.arange(hours) * HOUR
    estimate, observed = flows(stations, hours, seed), flows(stations, hours, seed + 1)
    observed[-1, 0] = np.nan
    qc = np.where(np.isnan(observed), 9, 1).astype(np.int8)
    tests = {"spike": qc, "flat_line": qc}
    parts = dict(zip(PARTS, (estimate, 0.1 * estimate, 1.1 * estimate, observed, qc, tests), strict=True))
    return day.analysis(stations, provenance, times, **parts)


def scored(stations=STATIONS["three"]):
    """The scores of a hindcast of two of the stations."""
    own, issue = [station.id for station in stations[:2]], np.datetime64("2025-11-01T00", "ns") + np.arange(60) * HOUR
    dims = ("forecast_reference_time", "forecast_period", "station")
    flow = flows(stations[:2], 60)[:, None] * np.linspace(1.0, 1.5, 24)[:, None]
    names = {"discharge": 1.0, "discharge_open_loop": 0.8} | {
        quantile_name(q): 0.5 + q for q in (0.05, 0.25, 0.75, 0.95)
    }
    data = {name: (dims, factor * flow) for name, factor in names.items()}
    data |= {f"{name}_at_issue": (dims[::2], flow[:, 0]) for name in ("observed", "open_loop")}
    coords = {dims[0]: issue, dims[1]: np.arange(1, 25), dims[2]: own}
    told = {"domain": "demo", "forcing": "observed", "model": "hbv.hourly", "filter": "ukf"}
    times = issue[0] + np.arange(100) * HOUR
    seen = xr.DataArray(flows(stations[:2], 100, 1), {"time": times, "station": own}, ("time", "station"))
    fitted = dict.fromkeys(own, Correction((5.0,) * 366, 3.0, 0.1, 0.8, 0.05, 0.02, 0.9, 0.6))
    return verification.verify([xr.Dataset(data, coords, told)], seen, fitted)


def scores(stations=STATIONS["three"]):
    return products.scores(stations, PROVENANCE, scored(stations))


BUILDERS = {"fc": forecast, "ens": ensemble, "an": analysis}
CASES = [(kind, name) for kind in BUILDERS for name in STATIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every kind of product for every set of stations, as files."""
    folder = tmp_path_factory.mktemp("products")
    for kind, name in CASES:
        publish({folder / f"{kind}_{name}.nc": BUILDERS[kind](STATIONS[name])})
    publish({folder / "verify.nc": scores()})
    return folder


def tool(name):
    """The path of an outside program; skips the test where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    return found or pytest.skip(f"{name} is not installed")


def output(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what downstream readers expect --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports(folder):
    """What the checker says of every file."""
    files = sorted(folder.glob("*.nc"))
    assert len(files) == len(CASES) + 1
    return compliance(files, "cf:1.8", "acdd:1.3")


def test_files_follow_cf(reports):
    for name, tests in reports.items():
        assert tests["cf:1.8"]["possible_points"] > 100
        assert not complaints(tests["cf:1.8"], "high", "medium", "low"), name


def test_files_say_what_acdd_asks_for(reports):
    """Nothing highly recommended is missing but CF names of quantities that have none."""
    nameless = ("catchment_area", "exceedance_probability", *scored().data_vars)
    for name, tests in reports.items():
        for where, what in complaints(tests["acdd:1.3"], "high"):
            assert what == "standard_name" and any(f'"{start}' in where for start in nameless), (name, where, what)
        recommended = [what for _, what in complaints(tests["acdd:1.3"], "medium") if "vertical" not in what]
        assert not recommended or name.startswith("verify") or "unplaced" in name, (name, recommended)


def test_the_compliance_check_can_fail(folder, tmp_path):
    path = tmp_path / "bad.nc"
    shutil.copy(folder / "fc_three.nc", path)
    with netCDF4.Dataset(path, "a") as nc:
        nc["discharge"].units = "bananas"
        del nc.title
    found = compliance([path], "cf:1.8", "acdd:1.3")[path.name]
    assert any("bananas" in what for _, what in complaints(found["cf:1.8"], "high", "medium"))
    assert any("title" in what for _, what in complaints(found["acdd:1.3"], "high"))


def test_files_pass_the_other_cf_checker(folder, tmp_path):
    checker = tool("cfchecks")
    cf_names = Path(pytest.importorskip("compliance_checker").__file__).parent / "data/cf-standard-name-table.xml"
    for kind in ("area_type_table", "standard_region_list"):  # of which the products use no entry
        text = f"<{kind}><version_number>1</version_number><date>1 January 2025</date></{kind}>"
        (tmp_path / kind).write_text(text)
    tables = ["-s", cf_names, "-a", tmp_path / "area_type_table", "-r", tmp_path / "standard_region_list"]
    for path in sorted(folder.glob("*.nc")):
        said = output(checker, "-v", "1.8", *tables, path)
        assert "ERRORS detected: 0\nWARNINGS given: 0" in said, said[-2000:]


def test_r_reads_ids_as_text_and_missing_as_na(folder):
    rscript = tool("Rscript")
    if subprocess.run([rscript, "-e", "library(ncdf4)"], capture_output=True, check=False).returncode:
        pytest.skip("the R package ncdf4 is not installed")
    path = folder / "fc_three.nc"
    code = f'n <- ncdf4::nc_open("{path}"); q <- ncdf4::ncvar_get(n, "discharge")'
    code += '; cat(ncdf4::ncvar_get(n, "station_id"), dim(q), sum(is.na(q)))'
    assert output(rscript, "-e", code).split() == ["alder", "birch-2", "cedar_3", "3", "24", "25"]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_cdo_reads_every_variable_of_every_hour_and_member(folder, kind, name):
    cdo, path = tool("cdo"), folder / f"{kind}_{name}.nc"
    ds, found = netcdf.read(path), {}
    for line in output(cdo, "-s", "infon", path).splitlines():
        variable = line.split(":")[-1].strip()
        found[variable] = found.get(variable, 0) + 1
    for variable in ds.data_vars.values():
        if variable.dtype.kind != "U" and "station" in variable.dims:
            records = [size for dim, size in variable.sizes.items() if dim != "station"]
            assert found.get(variable.name) == int(np.prod(records)), variable.name


def test_ncrcat_joins_days(tmp_path):
    ncrcat = tool("ncrcat")
    days = [analysis(start="2025-11-22T00", hours=24), analysis(start="2025-11-23T00", hours=5, seed=1)]
    names = [tmp_path / "an_1.nc", tmp_path / "an_2.nc"]
    publish(dict(zip(names, days, strict=True)))
    output(ncrcat, *names, tmp_path / "series.nc")
    with xr.open_dataset(tmp_path / "series.nc", engine="netcdf4") as series:
        np.testing.assert_array_equal(series.time, days[0].time.values[0] + np.arange(29) * HOUR)
        np.testing.assert_array_equal(series.discharge, np.concatenate([day.discharge.values for day in days]))
        assert series.station_id.values.tolist() == ["alder", "birch-2", "cedar_3"]
    with pytest.raises(netcdf.DamagedFile, match="changed by another program"):
        netcdf.read(tmp_path / "series.nc")


def test_ncks_cuts_out_a_station_and_ncdump_shows_it(folder, tmp_path):
    ncks, ncdump = tool("ncks"), tool("ncdump")
    output(ncks, "-d", "station,1", folder / "fc_three.nc", tmp_path / "cut.nc")
    shown = output(ncdump, "-v", "station_id,discharge_q05", tmp_path / "cut.nc")
    assert "birch-2" in shown and "NaN" not in shown
    assert "time = UNLIMITED ; // (24 currently)" in shown


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_xarray_finds_a_station_by_its_id(folder, tmp_path, kind, name):
    path = folder / f"{kind}_{name}.nc"
    ours = netcdf.read(path)
    with xr.open_dataset(path, engine="netcdf4", decode_timedelta=False) as ds:
        ds.load()
    assert ds.time.values.tolist() == ours.time.values.tolist()
    assert all(isinstance(station, str) for station in ds.station_id.values.tolist())
    one = ds.set_xindex("station_id").sel(station_id="alder")
    np.testing.assert_array_equal(one.discharge, ours.discharge[..., 0])
    assert str(one.station_name.values) == (STATIONS[name][0].name or "alder")
    ds.to_netcdf(tmp_path / "again.nc")
    with xr.open_dataset(tmp_path / "again.nc", engine="netcdf4", decode_timedelta=False) as again:
        xr.testing.assert_equal(again, ds)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_no_number_on_disk_is_nan_infinite_or_negative(folder, kind, name):
    with netCDF4.Dataset(folder / f"{kind}_{name}.nc") as nc:
        nc.set_auto_mask(False)
        for variable in nc.variables.values():
            if variable.dtype.kind == "f":
                values = variable[...]
                assert np.isfinite(values).all(), variable.name
                assert (values >= 0).all() or variable.name in ("lat", "lon"), variable.name
                assert variable.dtype == np.float32 or not {"time", "station"} <= set(variable.dimensions)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_file_is_read_back_as_it_was_built_and_keeps_the_invariants(folder, kind, name):
    path = folder / f"{kind}_{name}.nc"
    assert check(path).identical(BUILDERS[kind](STATIONS[name]))


def test_scores_are_read_back_as_they_were_built(folder):
    ds = check(folder / "verify.nc")
    assert ds.identical(scores())
    assert ds.nse.dims == ("forecast_period", "station", "method")
    assert ds.coverage_90.dims == ("forecast_period", "station")
    assert ds.n.dtype == np.int32
    assert ds.station_id.values.tolist() == ["alder", "birch-2"]
    assert not {"featureType", "hydroda_start_kind", "hydroda_degraded"} & set(ds.attrs)
    assert ds.attrs["time_coverage_start"] == "2025-11-01T00:00:00Z"
    assert ds.attrs["time_coverage_end"] == "2025-11-04T11:00:00Z"


def test_scores_of_a_file_are_those_that_were_computed(folder):
    found, computed = verification.named(netcdf.read(folder / "verify.nc")), scored()
    assert found.attrs.items() >= computed.attrs.items()
    for name in computed:
        xr.testing.assert_allclose(found[name], computed[name], rtol=1e-6)
    assert verification.named(computed) is computed  # as earlier versions wrote it


# --- what the numbers mean -----------------------------------------------------------------------------------------


def test_the_forecast_is_log_normal_on_either_side_of_its_median():
    station = Station("alder", 1.0, thresholds=(5.0, 20.0))
    shape = (24, 1)
    spread = np.stack((np.full(shape, 0.3), np.full(shape, 0.5)))
    ds = products.forecast(
        [station], PROVENANCE, CYCLE, np.full(shape, 10.0), spread, np.full(shape, 7.0), np.ones(shape)
    )
    first = ds.isel(time=0, station=0)
    assert first.discharge == 10.0
    assert first.discharge_open_loop == 7.0
    assert float(first.discharge_q05) == pytest.approx(10 * np.exp(-0.3 * 1.6448536), rel=1e-6)
    assert first.discharge_q50 == 10.0
    assert float(first.discharge_q95) == pytest.approx(10 * np.exp(0.5 * 1.6448536), rel=1e-6)
    assert float(first.discharge_q75) == pytest.approx(10 * np.exp(0.5 * 0.6744898), rel=1e-6)
    assert float(first.exceedance_probability_t1) == pytest.approx(0.9895671, rel=1e-5)  # Phi(ln 2 / 0.3)
    assert float(first.exceedance_probability_t2) == pytest.approx(0.0828286, rel=1e-5)  # 1 - Phi(ln 2 / 0.5)
    assert ds.time.values[0] == CYCLE + HOUR and ds.time.values[-1] == CYCLE + 24 * HOUR


def test_thresholds_are_per_station_and_absent_where_nobody_has_any():
    ds = forecast()
    np.testing.assert_array_equal(ds.threshold_t1, [60.0, 30.0, np.nan])
    np.testing.assert_array_equal(ds.threshold_t2, [100.0, np.nan, np.nan])
    assert np.isfinite(ds.exceedance_probability_t1[0]).values.tolist() == [True, True, False]
    assert np.isfinite(ds.exceedance_probability_t2[0]).values.tolist() == [True, False, False]
    bare = forecast(STATIONS["two_one_unplaced"])
    assert not [name for name in bare.variables if "threshold" in str(name) or "exceedance" in str(name)]


SOUND = np.ones((24, 1)), np.ones((2, 24, 1)), np.ones((24, 1))  # median, spread, open loop


def test_a_missing_forecast_is_missing_throughout_and_says_so():
    ds = forecast()
    assert ds.discharge_status.values[5].tolist() == [9, 2, 9]
    assert np.isnan(ds.discharge_q05.values[5]).tolist() == [True, False, True]
    given_up = products.forecast(STATIONS["one"], PROVENANCE, CYCLE, *SOUND, np.full((24, 1), 9, np.int8))
    assert np.isnan(given_up.discharge).all() and np.isnan(given_up.exceedance_probability_t1).all()
    assert check(given_up) is given_up


def test_a_missing_forecast_has_no_method():
    methods = products.Methods(np.full((24, 1), 3, np.int8))
    median, spread, open_loop = (part.copy() for part in SOUND)
    median[4] = np.nan
    status = np.ones((24, 1), np.int8)
    ds = products.forecast(STATIONS["one"], PROVENANCE, CYCLE, median, spread, open_loop, status, methods)
    assert ds.discharge_method.values[:, 0].tolist() == [3] * 4 + [0] + [3] * 19
    check(ds)


def test_a_bias_and_its_error_are_missing_where_they_are_not_finite():
    one, times = np.ones((3, 1)), CYCLE - np.arange(3)[::-1] * HOUR
    bias = day.Bias(np.array([[0.1], [np.inf], [0.2]]), np.array([[np.inf], [0.3], [0.4]]), "m3 s-1", "a gauge")
    flags = np.ones((3, 1), np.int8)
    biases = {"gauge_bias": bias}
    parts = dict(zip(PARTS, (one, one, one, one, flags), strict=False))
    ds = day.analysis(STATIONS["one"], PROVENANCE, times, **parts, biases=biases)
    np.testing.assert_array_equal(ds.gauge_bias.values[:, 0], np.float32([0.1, np.nan, 0.2]))
    np.testing.assert_array_equal(ds.gauge_bias_standard_error.values[:, 0], np.float32([np.nan, 0.3, 0.4]))


def test_an_impossible_observation_is_withheld_and_fails():
    one = np.ones((3, 1))
    observed, qc = np.array([[-3.0], [np.nan], [4.0]]), np.array([[1], [1], [9]], np.int8)
    times = CYCLE + np.arange(3) * HOUR
    ds = day.analysis(
        STATIONS["one"], PROVENANCE, times, **dict(zip(PARTS, (one, one, one, observed, qc), strict=False))
    )
    assert np.isnan(ds.discharge_observed).all()
    assert ds.discharge_observed_qc.values[:, 0].tolist() == [4, 9, 9]
    check(ds)


NASTY = st.sampled_from(
    [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 1e-300, 1e-30, 0.3, 50.0, 60.0, 5e5, 6e5, 1e30, 1e300]
)


def nasty(*shape):
    return hnp.arrays(np.float64, shape, elements=NASTY)


@settings(max_examples=60, deadline=None)
@given(
    nasty(24, 2), nasty(2, 24, 2), nasty(24, 2), hnp.arrays(np.int8, (24, 2), elements=st.sampled_from([1, 2, 3, 4, 9]))
)
def test_whatever_a_run_gives_the_forecast_keeps_the_invariants(median, spread, open_loop, status):
    ds = check(products.forecast(STATIONS["three"][:2], PROVENANCE, CYCLE, median, spread, open_loop, status))
    narrow = np.isin(spread, [0, 0.3, 1e-30, 1e-300]).all(0)
    sound = np.isin(median, [0.0, 0.3, 1e-300, 1e-30, 50, 60, 5e5]) & narrow
    np.testing.assert_array_equal(ds.discharge_status.values[sound], status[sound])
    assert (ds.discharge_status.values[~np.isfinite(median) | (median < 0) | ~(spread >= 0).all(0)] == 9).all()


@settings(max_examples=60, deadline=None)
@given(nasty(24, 3, 2))
def test_whatever_a_run_gives_the_ensemble_keeps_the_invariants(members):
    ds = check(products.ensemble(STATIONS["three"][:2], PROVENANCE, CYCLE, members, np.ones((24, 2), np.int8)))
    whole = ((members >= 0) & (members <= 5e5)).all(axis=1)
    np.testing.assert_array_equal(ds.discharge_status.values == 1, whole)


@settings(max_examples=60, deadline=None)
@given(nasty(4, 3, 2), nasty(3, 2), hnp.arrays(np.int8, (3, 2), elements=st.sampled_from([1, 2, 3, 4, 9])))
def test_whatever_a_run_gives_the_analysis_keeps_the_invariants(arrays, observed, qc):
    times = CYCLE + np.arange(3) * HOUR
    parts = dict(zip(PARTS, (*arrays[:3], observed, qc), strict=False))
    check(day.analysis(STATIONS["three"][:2], PROVENANCE, times, **parts))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: forecast((Station("a", 1.0, thresholds=(5.0, 5.0)),)), "'a': thresholds .* must be positive and rise"),
        (lambda: forecast((Station("a", 1.0), Station("a", 1.0))), r"stations repeat: \['a'\]"),
        (lambda: forecast((Station("a", 0.0),)), "'a': area 0.0 km2 is not positive"),
        (lambda: forecast((Station("../a", 1.0),)), "station id '../a' is not usable"),
        (
            lambda: products.forecast(STATIONS["one"], PROVENANCE, CYCLE, *[np.ones((23, 1))] * 4),
            r"median has shape \(23, 1\), expected \(24, 1\)",
        ),
        (
            lambda: products.forecast(STATIONS["one"], PROVENANCE, CYCLE, *[np.ones((24, 1))] * 4),
            r"spread has shape \(24, 1\), expected \(2, 24, 1\)",
        ),
        (
            lambda: products.forecast(STATIONS["one"], PROVENANCE, CYCLE, *SOUND, np.full((24, 1), 7)),
            r"status of the forecast value: flags \[7\]",
        ),
        (
            lambda: products.ensemble(STATIONS["one"], PROVENANCE, CYCLE, np.ones((24, 1)), np.ones((24, 1))),
            r"members has shape \(24, 1\), expected \(24, 1, 1\)",
        ),
    ],
)
def test_what_no_product_can_be_made_of_is_named(build, message):
    with pytest.raises(SchemaError, match=message):
        build()


# --- what the attributes say ---------------------------------------------------------------------------------------


def test_an_auditor_finds_every_input():
    provenance = replace(
        PROVENANCE,
        run_kind="catch_up",
        start_kind="older_state",
        state_age_hours=3.0,
        degraded=("forcing_persisted", "obs_missing:2"),
        config_sha256="c" * 64,
        forcing_source="icon",
        forcing_reference_time=CYCLE - 6 * HOUR,
        credits=Credits(title="Alps", institution="The Institute"),
    )
    attrs = forecast(provenance=provenance).attrs
    assert attrs["hydroda_degraded"] == "forcing_persisted,obs_missing:2"
    assert attrs["hydroda_run_kind"] == "catch_up"
    assert attrs["hydroda_state_age_hours"] == 3.0
    assert attrs["hydroda_config_sha256"] == "c" * 64
    assert attrs["hydroda_forcing_reference_time"] == "2025-11-21T21:00Z"
    assert attrs["title"] == "Alps: hourly streamflow forecast, lead times 1 to 24 h"
    assert (attrs["institution"], attrs["creator_name"]) == ("The Institute", "not set")
    assert (attrs["id"], analysis().attrs["id"]) == ("hydroda_demo_fc_20251122T0300Z", "hydroda_demo_an_20251122")
    hindcast = forecast(provenance=replace(PROVENANCE, run_kind="hindcast"))
    assert hindcast.attrs["id"] == "hydroda_demo_fc-hindcast_20251122T0300Z"
    assert hindcast.attrs["hydroda_degraded"] == "none"


def test_time_and_place_are_covered_as_acdd_counts():
    attrs = forecast().attrs
    assert (attrs["time_coverage_start"], attrs["time_coverage_end"]) == (
        "2025-11-22T03:00:00Z",
        "2025-11-23T03:00:00Z",
    )
    assert attrs["time_coverage_duration"] == "PT24H"
    assert (attrs["geospatial_lat_min"], attrs["geospatial_lon_max"]) == (47.41, 10.0)
    assert attrs["geospatial_bounds"].startswith("POLYGON ((47.410000 9.740000, ")
    assert "geospatial_lat_min" not in forecast(STATIONS["one_unplaced"]).attrs


def test_credits_are_the_words_of_the_settings():
    assert {field.name for field in fields_of(Credits)} == set(Deployment.model_fields) - {"domain", "store"}


# --- the acceptance check sees -------------------------------------------------------------------------------------


def broken(kind, name, index, value):
    ds = BUILDERS[kind]()
    ds[name].values[index] = value
    return ds


BREAKS = {
    "discharge_q25 is below discharge_q05: station alder at 2025-11-22T04:00Z": ("fc", "discharge_q25", (0, 0), 0.01),
    "discharge_q95 is infinite": ("fc", "discharge_q95", (0, 0), np.inf),
    "discharge is negative": ("fc", "discharge", (0, 0), -1.0),
    "discharge is not discharge_q50": ("fc", "discharge", (0, 0), 1e4),
    "discharge is missing without status 9, or the reverse: station birch-2": ("fc", "discharge", (7, 1), np.nan),
    "discharge_q50 is missing without": ("fc", "discharge_status", (7, 1), 9),
    "discharge_q05 is missing without": ("fc", "discharge_status", (5, 0), 1),
    r"discharge_status is no flag of \[1, 2, 3, 4, 9\]": ("fc", "discharge_status", (0, 0), 5),
    r"exceedance_probability_t1 is not in \[0, 1\]": ("fc", "exceedance_probability_t1", (0, 1), 1.1),
    "exceedance_probability_t2 is above exceedance_probability_t1": ("fc", "exceedance_probability_t2", (0, 0), 1.0),
    "exceedance_probability_t1 is missing where it should not": ("fc", "exceedance_probability_t1", (0, 0), np.nan),
    "exceedance_probability_t2 is missing where it should not": ("fc", "exceedance_probability_t2", (0, 1), 0.0),
    "threshold_t2 is not above threshold_t1": ("fc", "threshold_t2", 0, 60.0),
    "time does not rise": ("an", "time", 1, np.datetime64("2025-11-22T00:00", "ns")),
    "time_bnds are not the hours": ("an", "time_bnds", (1, 0), np.datetime64("2025-11-22T00:30", "ns")),
    "forecast_period is .*, expected 1 to 24": ("fc", "forecast_period", 3, 5.0),
    r"time is not forecast_reference_time 2025-11-22T02:00Z plus": ("ens", "forecast_reference_time", (), CYCLE - HOUR),
    "station ids repeat": ("fc", "station_id", 1, "alder"),
    "station id 'A' is not usable": ("fc", "station_id", 1, "A"),
    "discharge is missing without status 9, or the reverse: station cedar_3": ("ens", "discharge", (0, 1, 2), np.nan),
    "discharge_standard_error is missing where": ("an", "discharge_standard_error", (0, 0), np.nan),
    "discharge_observed is missing under a good flag": ("an", "discharge_observed", (0, 0), np.nan),
    "discharge_observed is there under the flag missing": ("an", "discharge_observed_qc", (0, 0), 9),
    "discharge_observed_spike is no flag": ("an", "discharge_observed_spike", (0, 0), -127),
}


@pytest.mark.parametrize("message", BREAKS)
def test_the_check_names_what_is_broken(message):
    kind, name, index, value = BREAKS[message]
    ds = BUILDERS[kind]().copy(deep=True)
    values = np.array(ds[name].values)
    values[index] = value
    ds = ds.drop_indexes("time").assign({name: (ds[name].dims, values, ds[name].attrs)})
    with pytest.raises(ProductError, match=message):
        check(ds)


def test_the_check_wants_one_day_full_hours_provenance_and_order():
    with pytest.raises(ProductError, match="hours of more than one UTC day: 2025-11-22T00:00Z to 2025-11-23T00:00Z"):
        check(analysis(hours=25))
    with pytest.raises(ProductError, match="not full hours"):
        check(analysis(start="2025-11-22T00:30"))
    lacking = forecast()
    del lacking.attrs["hydroda_inputs_sha256"]
    with pytest.raises(ProductError, match="lack hydroda_inputs_sha256"):
        check(lacking)
    with pytest.raises(ProductError, match="hydroda_run_kind is 'test', allowed are operational"):
        check(forecast(provenance=replace(PROVENANCE, run_kind="test")))
    with pytest.raises(ProductError, match="hydroda_product is None"):
        check(xr.Dataset())
    ens = ensemble()
    ens = ens[["discharge", *(name for name in ens.variables if name != "discharge")]]
    with pytest.raises(ProductError, match="discharge_status must be defined before"):
        check(ens)
    wide = forecast()
    wide["discharge"] = wide.discharge.astype(np.float64)
    with pytest.raises(ProductError, match="discharge is float64, expected float32"):
        check(wide)


# --- the day file --------------------------------------------------------------------------------------------------


def test_hour_by_hour_is_the_day_at_once():
    whole = analysis(hours=6)
    times = whole.time.values
    grown = None
    for i in range(6):
        part = day.merged(None, whole.isel(time=slice(i, i + 1)))
        grown = day.merged(grown, part)
        assert check(grown).time.values.tolist() == times[: i + 1].tolist()
    assert grown.identical(whole)
    assert day.merged(grown, part).identical(grown)  # the last hour once more
    backwards = day.merged(whole.isel(time=slice(3, 6)), whole.isel(time=slice(0, 3)))
    assert backwards.identical(whole)


def test_where_both_have_an_hour_the_new_one_counts():
    old, new = analysis(hours=4), analysis(start="2025-11-22T02", hours=3, seed=9)
    merged = check(day.merged(old, new))
    np.testing.assert_array_equal(merged.discharge[:2], old.discharge[:2])
    np.testing.assert_array_equal(merged.discharge[2:], new.discharge)
    np.testing.assert_array_equal(merged.discharge_observed[3], new.discharge_observed[1])
    assert merged.attrs["time_coverage_start"] == "2025-11-21T23:00:00Z"
    assert merged.attrs["time_coverage_end"] == "2025-11-22T04:00:00Z"


def test_stations_that_come_and_go_keep_their_own_columns():
    alder, birch, cedar = STATIONS["three"]
    old = analysis((alder, birch), hours=2)
    renamed = replace(birch, name="Birch at the mill")
    new = analysis((cedar, renamed), start="2025-11-22T02", hours=1, seed=5)
    merged = check(day.merged(old, new))
    assert merged.station_id.values.tolist() == ["cedar_3", "birch-2", "alder"]
    assert merged.station_name.values.tolist() == ["愛知川", "Birch at the mill", "Große Alder"]
    np.testing.assert_array_equal(merged.discharge[:2, 2], old.discharge[:, 0])
    np.testing.assert_array_equal(merged.discharge[:2, 1], old.discharge[:, 1])
    np.testing.assert_array_equal(merged.discharge[2, :2], new.discharge[0])
    assert np.isnan(merged.discharge.values[2, 2]) and np.isnan(merged.discharge.values[0, 0])
    assert merged.discharge_observed_qc.values[2, 2] == merged.discharge_observed_spike.values[0, 0] == 9
    assert merged.attrs["geospatial_lat_min"] == 47.41


def test_a_day_file_holds_one_day():
    with pytest.raises(SchemaError, match="found hours of 2025-11-22 and 2025-11-23"):
        day.merged(analysis(), analysis(start="2025-11-23T00"))


def test_quality_tests_have_their_cf_names():
    one, flags = np.ones((1, 1)), np.ones((1, 1), np.int8)
    parts = dict(zip(PARTS, (one, one, one, one, flags, {name: flags for name in TESTS}), strict=True))
    ds = day.analysis(STATIONS["one"], PROVENANCE, np.array([CYCLE]), **parts)
    assert {name: ds[f"discharge_observed_{name}"].attrs["standard_name"] for name in TESTS} == dict(TESTS)
    assert ds.discharge_observed.attrs["ancillary_variables"].split()[0] == "discharge_observed_qc"
    check(ds)


# --- publishing ----------------------------------------------------------------------------------------------------


def run(root, cycle=CYCLE, provenance=PROVENANCE, seed=0):
    """One published and announced cycle; what `announce` said."""
    stamp = np.datetime_as_string(cycle, "h")
    made = {
        root / f"fc/{stamp}.nc": forecast(cycle=cycle, seed=seed, provenance=provenance),
        root / "an/day.nc": analysis(provenance=provenance),
    }
    return announce(made, publish(made), root / "latest.json", {"alder": cycle - 2 * HOUR})


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_run_gives_the_same_bytes_and_the_clock_moves_three_attributes(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name)
    first = content(tmp_path / "a")
    assert len(first) == 6
    assert content(tmp_path / "b") == first
    run(tmp_path / "a")
    assert content(tmp_path / "a") == first
    later = forecast(provenance=replace(PROVENANCE, created=PROVENANCE.created + HOUR, run_id="run-2")).attrs
    now = forecast().attrs
    assert {name for name in now if now[name] != later[name]} == {"date_created", "history", "hydroda_run_id"}


def test_the_pointer_tells_of_the_files(tmp_path):
    assert run(tmp_path)
    latest = json.loads((tmp_path / "latest.json").read_text())
    assert latest["cycle"] == "2025-11-22T03:00Z"
    assert latest["status"] == "missing"
    assert latest["stations"]["missing"] == 2 and latest["stations"]["no_recent_observation"] == 1
    entry = latest["files"]["fc"]
    assert entry["path"] == "fc/2025-11-22T03.nc"
    assert (tmp_path / entry["path"]).stat().st_size == entry["bytes"]
    sidecar = netcdf.sidecar_path(tmp_path / entry["path"]).read_text()
    assert sidecar.split()[0] == entry["sha256"]


def test_the_map_tells_of_the_stations(tmp_path):
    run(tmp_path)
    features = json.loads((tmp_path / "latest.geojson").read_text())["features"]
    ds, today = forecast(), analysis()
    assert [feature["id"] for feature in features] == ["alder", "birch-2", "cedar_3"]
    assert features[0]["geometry"] == {"type": "Point", "coordinates": [9.74, 47.41]}
    alder, birch, cedar = (feature["properties"] for feature in features)
    assert alder["discharge_max_24h"] == pytest.approx(np.nanmax(ds.discharge[:, 0]), rel=1e-5)
    peak = int(np.nanargmax(ds.discharge[:, 0]))
    assert alder["discharge_max_24h_time"] == f"{np.datetime_as_string(ds.time.values[peak], 'm')}Z"
    assert alder["discharge_now"] == pytest.approx(float(today.discharge[3, 0]), rel=1e-5)
    assert alder["exceedance_probability_t2"] == pytest.approx(np.nanmax(ds.exceedance_probability_t2[:, 0]), rel=1e-5)
    levels = [np.nanmax(ds[f"exceedance_probability_t{k}"][:, 0]) >= 0.5 for k in (1, 2)]
    assert alder["alert_level"] == sum(levels)
    assert (alder["data_age_hours"], birch["data_age_hours"]) == (2.0, None)
    assert (cedar["discharge_max_24h"], cedar["alert_level"], cedar["status"]) == (None, None, "missing")


def test_a_station_without_position_is_on_the_list_but_not_on_the_map(tmp_path):
    made = {tmp_path / "fc.nc": forecast(STATIONS["two_one_unplaced"])}
    announce(made, publish(made), tmp_path / "latest.json", {})
    features = json.loads((tmp_path / "latest.geojson").read_text())["features"]
    assert features[0]["geometry"]["type"] == "Point" and features[1]["geometry"] is None
    assert features[0]["properties"]["discharge_now"] is None


def test_the_pointer_never_goes_back(tmp_path):
    assert run(tmp_path)
    assert not run(tmp_path, cycle=CYCLE - HOUR)
    assert json.loads((tmp_path / "latest.json").read_text())["cycle"] == "2025-11-22T03:00Z"
    assert run(tmp_path, cycle=CYCLE + HOUR)
    assert json.loads((tmp_path / "latest.json").read_text())["cycle"] == "2025-11-22T04:00Z"
    for ruin in (b"", b"{", b"[]", b'{"cycle": 3}', b"\xff"):
        (tmp_path / "latest.json").write_bytes(ruin)
        assert run(tmp_path)


def test_nothing_is_written_when_one_product_is_wrong(tmp_path):
    wrong = broken("an", "discharge_observed", (0, 0), np.inf)
    with pytest.raises(ProductError, match="discharge_observed is infinite"):
        publish({tmp_path / "fc.nc": forecast(), tmp_path / "an.nc": wrong})
    assert not list(tmp_path.iterdir())


def test_a_hindcast_does_not_replace_an_operational_file(tmp_path):
    path = tmp_path / "fc.nc"
    hindcast = forecast(provenance=replace(PROVENANCE, run_kind="hindcast"))
    publish({path: hindcast})
    publish({path: hindcast})
    publish({path: forecast()})
    with pytest.raises(ProductError, match="is operational; a hindcast does not replace it"):
        publish({path: hindcast})
    assert netcdf.read(path).attrs["hydroda_run_kind"] == "operational"
