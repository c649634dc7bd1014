"""Files: what goes in comes out, a damaged file is refused, a kill or a full disk leaves the old one, threads live."""

import errno
import os
import pickle
import random
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydroda.storage import files, netcdf

HOUR = np.timedelta64(1, "h")
T0 = np.datetime64("2024-02-28T22:00", "ns")


def quantities(seed=0, hours=24, stations=3):
    """A dataset with every kind of variable a product has."""
    rng = np.random.default_rng(seed)
    times = T0 + np.arange(hours) * HOUR
    flow = rng.gamma(2, 20, (hours, stations))
    flow[2, 1] = np.nan
    coordinates = {"coordinates": "station_id lat reference_time"}
    return xr.Dataset(
        {
            "time_bnds": (("time", "nv"), np.stack([times - HOUR, times], axis=1)),
            "discharge": (("time", "station"), flow.astype(np.float32), {"units": "m3 s-1", **coordinates}),
            "precise": (("time", "station"), flow, {"units": "m3 s-1", **coordinates}),
            "flag": (("time", "station"), rng.integers(1, 5, (hours, stations)).astype(np.int8), {"units": "1"}),
            "count": ("station", np.arange(stations, dtype=np.int32), {"units": "1"}),
        },
        {
            "time": ("time", times, {"bounds": "time_bnds", "long_name": "end of the hour"}),
            "station_id": ("station", [f"s{i}" for i in range(stations)]),
            "river": ("station", ["Große Emme", "", "愛知川"][:stations]),
            "lat": ("station", np.r_[np.nan, np.arange(stations - 1.0)], {"units": "degrees_north"}),
            "reference_time": T0 - HOUR + np.timedelta64(123_456, "us"),
        },
        {"title": "Übung", "number": 3.5, "list": np.array([1.0, 2.0])},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "file.nc"


@pytest.fixture
def unvouched(path):
    """Writes bytes where no checksum vouches for them."""

    def put(data):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        netcdf.sidecar_path(path).unlink(missing_ok=True)
        return path

    return put


def written(ds, path, **options):
    netcdf.write(ds, path, **options)
    return path.read_bytes()


# --- what goes in comes out ----------------------------------------------------------------------------------------


def test_a_dataset_is_read_back_as_it_was(path):
    ds = quantities()
    netcdf.write(ds, path)
    xr.testing.assert_identical(netcdf.read(path), ds)
    netcdf.sidecar_path(path).unlink()
    xr.testing.assert_identical(netcdf.read(path), ds)


def test_the_order_of_variables_is_kept(path):
    names = ["flag", "discharge", "time", "count"]
    netcdf.write(quantities()[names].drop_vars(["river", "station_id", "lat", "reference_time"]), path)
    with netCDF4.Dataset(path) as nc:
        assert list(nc.variables) == names


def test_one_dataset_is_always_the_same_bytes(path, tmp_path):
    first = written(quantities(), path)
    time.sleep(1.1)  # HDF5 could keep the second of creation
    assert written(quantities(), tmp_path / "other.nc") == first
    assert written(netcdf.read(path), tmp_path / "copy.nc") == first
    assert written(quantities(seed=1), tmp_path / "another.nc") != first


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(
        np.float64, hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), elements=st.floats(allow_subnormal=True)
    ),
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)),
)
def test_a_belief_keeps_every_bit(path, numbers, integers):
    numbers = np.where(np.isnan(numbers), np.float64(np.frombuffer(b"\x01\x02\x03\x04\x05\x06\xf8\xff")[0]), numbers)
    ds = xr.Dataset(
        {
            "state.members": (tuple(f"a{i}" for i in range(numbers.ndim)), numbers),
            "seed": (tuple(f"b{i}" for i in range(integers.ndim)), integers),
            "flags": ("k", np.array([True, False])),
        },
        {"station": ["posina", "zwalm"]},
        {"format": "belief 1"},
    )
    netcdf.write(ds, path, record_dim=None)
    back = netcdf.read(path)
    for name in ("state.members", "seed"):
        assert back[name].dtype == ds[name].dtype
        assert back[name].shape == ds[name].shape
        assert back[name].values.tobytes() == ds[name].values.tobytes()
    assert back.station.values.tolist() == ["posina", "zwalm"]
    assert back["flags"].values.tolist() == [1, 0]
    assert back.attrs == ds.attrs


def test_float64_goes_to_disk_as_float32_on_request(path):
    ds = quantities()
    ds["precise"].encoding["dtype"] = "float32"
    netcdf.write(ds, path)
    assert netcdf.read(path).precise.dtype == np.float32


# --- the layout on disk --------------------------------------------------------------------------------------------


def test_the_layout_keeps_its_rules(path):
    netcdf.write(quantities(), path)
    with netCDF4.Dataset(path) as nc:
        nc.set_auto_mask(False)
        assert nc.data_model == "NETCDF4_CLASSIC"
        assert [name for name, dim in nc.dimensions.items() if dim.isunlimited()] == ["time"]
        for name, variable in nc.variables.items():
            if variable.dimensions:
                filters = variable.filters()
                assert (filters["zlib"], filters["complevel"], filters["shuffle"], filters["fletcher32"]) == (
                    1,
                    4,
                    1,
                    1,
                )
                assert variable.chunking() == list(variable.shape), name
        assert nc["time"].units == "seconds since 1970-01-01T00:00:00Z"
        assert nc["time"].dtype == np.float64
        assert not hasattr(nc["time_bnds"], "units")
        assert nc["station_id"]._Encoding == "utf-8"
        assert nc["station_id"].dtype == "S1"
        assert nc["discharge"]._FillValue == np.float32(9.96921e36)
        assert nc["discharge"][2, 1] == nc["discharge"]._FillValue
        assert np.isfinite(nc["precise"][:]).all()
        assert nc["flag"]._FillValue == -127
        assert not [n for n in ("time", "time_bnds", "station_id", "reference_time") if hasattr(nc[n], "_FillValue")]


def test_a_large_variable_has_chunks_of_a_megabyte(path):
    values = np.zeros((24, 30_000), np.float32)
    netcdf.write(xr.Dataset({"q": (("time", "station"), values, {"units": "m3 s-1"})}), path)
    with netCDF4.Dataset(path) as nc:
        chunks = nc["q"].chunking()
    assert chunks[0] == 24
    assert 2**18 < np.prod(chunks) * 4 <= 2**20


def test_the_sidecar_is_what_sha256sum_checks(path):
    digest = netcdf.write(quantities(), path)
    assert netcdf.sidecar_path(path).read_text() == f"{digest}  file.nc\n"
    if not shutil.which("sha256sum"):
        pytest.skip("sha256sum is not installed")
    subprocess.run(["sha256sum", "--check", "file.nc.sha256"], cwd=path.parent, check=True, capture_output=True)


def test_without_checksum_none_is_left(path):
    netcdf.write(quantities(), path)
    netcdf.write(quantities(seed=1), path, checksum=False)
    assert [p.name for p in path.parent.iterdir()] == ["file.nc"]
    xr.testing.assert_identical(netcdf.read(path), quantities(seed=1))


@pytest.mark.parametrize(
    ("ds", "options", "error", "message"),
    [
        (xr.Dataset({"a": ("x", [1.0])}), {}, ValueError, "no dimension 'time'.*record_dim=None"),
        (xr.Dataset({"a": ("time", np.zeros(0))}), {}, ValueError, "'time' has length 0"),
        (xr.Dataset({"a": ("time", [1j])}), {}, TypeError, "'a' has type complex128"),
        (xr.Dataset({"a": ("time", np.array(["x", 1.0], object))}), {}, TypeError, "'a' holds 1.0, expected text"),
        (xr.Dataset({"a": ("time", [2**31], {"units": "1"})}), {}, ValueError, "'a': 2147483648 is beyond 32 bit"),
        (
            xr.Dataset(coords={"time": ("time", np.array([T0, "NaT"], "datetime64[ns]"))}),
            {},
            ValueError,
            "coordinate 'time' has 1 missing",
        ),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(path, ds, options, error, message):
    with pytest.raises(error, match=message):
        netcdf.write(ds, path, **options)
    assert not path.parent.exists()


# --- files of others -----------------------------------------------------------------------------------------------


def test_a_foreign_file_is_decoded(path):
    path.parent.mkdir()
    with netCDF4.Dataset(path, "w") as nc:
        nc.createDimension("t", 3)
        variables = {
            "time": ("i4", {"units": "hours since 2024-01-01 06:00", "calendar": "gregorian"}, [0, 1, 48]),
            "packed": ("i2", {"scale_factor": 0.1, "add_offset": 5.0, "missing_value": np.int16(-9)}, [10, -9, 30]),
            "whole": ("i4", {"missing_value": np.int32(-9999)}, [7, -9999, 9]),
            "count": ("i4", {}, [7, 8, 9]),
            "two_holes": ("f4", {"missing_value": np.array([-1, -2], "f4")}, [-1, 4, -2]),
            "name": (str, {}, ["ä", "b", "c"]),
        }
        for name, (kind, attrs, values) in variables.items():
            variable = nc.createVariable(name, kind, ("t",))
            variable.set_auto_maskandscale(False)
            variable.setncatts(attrs)
            variable[:] = np.array(values, object if kind is str else kind)
    ds = netcdf.read(path)
    assert ds.time.values.tolist() == [
        np.datetime64(t, "ns").astype(int) for t in ("2024-01-01T06", "2024-01-01T07", "2024-01-03T06")
    ]
    np.testing.assert_allclose(ds.packed, [6.0, np.nan, 8.0])
    np.testing.assert_array_equal(ds.whole, [7, np.nan, 9])
    assert ds["count"].dtype == np.int32
    np.testing.assert_array_equal(ds.two_holes, [np.nan, 4, np.nan])
    assert ds.name.values.tolist() == ["ä", "b", "c"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"<html>502 Bad Gateway</html>", "is not a netCDF-4 file"),
        (b"CDF\x01" + bytes(100), "netCDF-3 is read only with a .sha256"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "cannot be read as NetCDF"),
    ],
)
def test_what_is_not_netcdf_is_refused_by_name(unvouched, content, why):
    path = unvouched(content)
    with pytest.raises(netcdf.DamagedFile, match=why) as caught:
        netcdf.read(path)
    assert str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_absent_file_is_not_a_damaged_one(path):
    with pytest.raises(FileNotFoundError):
        netcdf.read(path)


# --- damage --------------------------------------------------------------------------------------------------------

DAMAGES = {
    "truncated": lambda data, rng: data[: rng.randrange(len(data))],
    "bit flipped": lambda data, rng: put(data, p := rng.randrange(len(data)), bytes([data[p] ^ 1 << rng.randrange(8)])),
    "zeroed": lambda data, rng: put(data, rng.randrange(len(data)), bytes(rng.randrange(1, 4096))),
    "overwritten": lambda data, rng: put(data, rng.randrange(len(data)), rng.randbytes(rng.randrange(1, 64))),
}


def put(data, at, new):
    """The data with `new` written over it from `at` on, the length unchanged."""
    return (data[:at] + new)[: len(data)] + data[at + len(new) :]


def refused_or_unharmed(tmp_path, seeds):
    """Reads damaged copies without a checksum beside them; how many were refused, the others must be as they were."""
    whole = tmp_path / "whole.nc"
    data, ds = written(quantities(), whole), quantities()
    cases = [(kind, seed) for kind in DAMAGES for seed in seeds]

    def outcome(case):
        kind, seed = case
        copy = tmp_path / f"{kind}{seed}.nc"
        copy.write_bytes(DAMAGES[kind](data, random.Random(f"{kind} {seed}")))
        start = time.monotonic()
        try:
            back = netcdf.read(copy, timeout=4)
        except netcdf.DamagedFile as damage:
            assert str(copy) in str(damage)
            return "refused"
        finally:
            assert time.monotonic() - start < 8, case
            copy.unlink()
        assert back.identical(ds), case
        return "unharmed"

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(cases, pool.map(outcome, cases), strict=True))


def test_a_damaged_copy_is_refused_or_still_right(tmp_path):
    outcomes = refused_or_unharmed(tmp_path, range(15))
    assert {o for (kind, _), o in outcomes.items() if kind == "truncated"} == {"refused"}
    assert list(outcomes.values()).count("refused") > 30


@pytest.mark.slow
def test_many_damaged_copies_are_refused_or_still_right(tmp_path):
    outcomes = refused_or_unharmed(tmp_path, range(100, 400))
    assert {o for (kind, _), o in outcomes.items() if kind == "truncated"} == {"refused"}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_shows_against_the_checksum_file(path, kind):
    data = written(quantities(), path)
    for seed in range(50):
        damaged = DAMAGES[kind](data, random.Random(seed))
        if damaged != data:
            path.write_bytes(damaged)
            with pytest.raises(netcdf.DamagedFile, match=r"does not match its checksum in file\.nc\.sha256"):
                netcdf.read(path)


def plain_read(data):
    """All bytes of all variables as the library gives them, None where it refuses."""
    try:
        with netCDF4.Dataset("memory", memory=data) as nc:
            nc.set_auto_maskandscale(False)
            nc.set_auto_chartostring(False)
            return [variable[...].tobytes() for variable in nc.variables.values()]
    except (OSError, RuntimeError):
        return None


def test_a_flipped_bit_that_the_library_does_not_see_is_seen(unvouched, path):
    """HDF5 keeps the place of a chunk without a checksum: one bit there, and the library gives fill values instead."""
    data = written(quantities(), path)
    unseen, start = 0, data.find(b"TREE\x01")  # the index of the chunks of one variable
    while start >= 0:
        place = start + 50  # in the coordinates of the first chunk
        damaged = put(data, place, bytes([data[place] ^ 1]))
        if plain_read(damaged) not in (None, plain_read(data)):
            unseen += 1
            unvouched(damaged)
            with pytest.raises(netcdf.DamagedFile, match="do not match its own checksum"):
                netcdf.read(path)
        start = data.find(b"TREE\x01", start + 1)
    assert unseen > 3


def test_a_number_changed_by_another_program_is_refused_until_the_promise_is_removed(path):
    netcdf.write(quantities(), path)
    netcdf.sidecar_path(path).unlink()
    with netCDF4.Dataset(path, "a") as nc:
        nc["reference_time"][...] = 0.0
    with pytest.raises(netcdf.DamagedFile, match="ncatted -h -a hydroda_data_sha256"):
        netcdf.read(path)
    with netCDF4.Dataset(path, "a") as nc:
        nc.delncattr("hydroda_data_sha256")
    assert netcdf.read(path).reference_time.values == np.datetime64(0, "ns")


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        ("while True: pass", "not read within 0.5 s"),
        ("import os; os.abort()", "crashed with signal 6"),
        ("raise MemoryError('too large')", "too large"),
    ],
)
def test_a_file_that_hangs_or_crashes_the_library_harms_only_the_child(monkeypatch, unvouched, path, trial, why):
    unvouched(written(quantities(), path))
    monkeypatch.setattr(netcdf, "_TRIAL", trial)
    start = time.monotonic()
    with pytest.raises(netcdf.DamagedFile, match=why):
        netcdf.read(path, timeout=0.5 if "while" in trial else 20)
    assert time.monotonic() - start < 10


# --- kills, readers, threads ---------------------------------------------------------------------------------------


def forked(work):
    """Runs `work` in a child process; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def killed_while_writing(path, kills):
    """Kills a writer that alternates between two datasets; what stands under the name is one of them."""
    versions = [quantities(seed=1), quantities(seed=2, hours=100)]
    netcdf.write(versions[0], path)
    rng, strays = random.Random(4), 0

    def write_for_ever():
        while True:
            for ds in versions:
                netcdf.write(ds, path)

    for _ in range(kills):
        pid = forked(write_for_ever)
        time.sleep(rng.uniform(0.001, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        back = netcdf.read(path)
        assert any(back.identical(ds) for ds in versions)
        for other in set(path.parent.iterdir()) - {path, netcdf.sidecar_path(path)}:
            assert other.name.startswith(f".{path.name}") and other.name.endswith(".tmp")
            other.unlink()
            strays += 1
    return strays


@pytest.fixture
def own_scratch(tmp_path, monkeypatch):
    """Kills may leave empty scratch files: here, not in the memory of the machine."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(netcdf, "_scratch_folder", lambda _: folder)


def test_a_killed_writer_leaves_a_whole_file(path, own_scratch):
    # some kill must hit a write; on a busy machine that takes more than one round
    assert any(killed_while_writing(path, 20) for _ in range(10))


@pytest.mark.slow
def test_a_writer_killed_many_times_leaves_a_whole_file(path, own_scratch):
    assert killed_while_writing(path, 400) > 50


def test_a_reader_never_fails_while_the_file_is_rewritten(path):
    versions = [quantities(seed=1), quantities(seed=2)]
    netcdf.write(versions[0], path)

    def rewrite():
        for i in range(150):
            netcdf.write(versions[i % 2], path)
        os._exit(0)

    pid, reads, seen = forked(rewrite), 0, set()
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        back = netcdf.read(path)
        seen.add([back.identical(ds) for ds in versions].index(True))
        reads += 1
    assert reads > 10
    assert seen == {0, 1}


def test_eight_threads_write_and_read(tmp_path):
    shared = tmp_path / "shared.nc"
    versions = [quantities(seed=i) for i in range(8)]
    netcdf.write(versions[0], shared)

    def work(i):
        own = tmp_path / f"{i}.nc"
        for _ in range(8):
            netcdf.write(versions[i], own)
            netcdf.write(versions[i], shared)
            assert netcdf.read(own).identical(versions[i])
            back = netcdf.read(shared)
            assert any(back.identical(ds) for ds in versions)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_checksum_that_changes_under_the_reader_is_asked_again(path, monkeypatch):
    netcdf.write(quantities(), path)
    answers = iter(["0" * 64, None, *[netcdf._promise(path)] * 2])
    monkeypatch.setattr(netcdf, "_promise", lambda _: next(answers))
    assert netcdf.read(path).identical(quantities())


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_forgotten_when_space_returns(small_disk):
    path = small_disk / "a.nc"
    rng = np.random.default_rng(0)
    old = written(quantities(), path)
    for values in (50_000, 500_000):
        with pytest.raises(OSError, match=f"disk full: {path}"):
            netcdf.write(xr.Dataset({"q": ("time", rng.random(values), {"units": "m3 s-1"})}), path)
        assert path.read_bytes() == old
        assert sorted(p.name for p in small_disk.iterdir()) == ["a.nc", "a.nc.sha256"]
    with pytest.raises(OSError, match="disk full"):
        files.replace(small_disk / "latest.json", bytes(400_000))
    assert netcdf.read(path).identical(quantities())
    for seed in range(5):  # a library that kept the failed file open would still fill the disk
        netcdf.write(quantities(seed=seed, hours=400), path)


def test_a_refused_write_leaves_the_old_file(path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    old = written(quantities(), path)
    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match=r"disk full.*an older file of that name is intact"):
        netcdf.write(quantities(seed=1), path)
    assert path.read_bytes() == old
    assert len(list(path.parent.iterdir())) == 2


def test_without_room_in_memory_the_scratch_file_goes_elsewhere_or_nowhere(path, monkeypatch, tmp_path):
    free = {"/dev/shm": 0, tempfile.gettempdir(): 10**9}
    monkeypatch.setattr(netcdf.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[str(folder)]))
    assert netcdf._scratch_folder(1000) == Path(tempfile.gettempdir())
    netcdf.write(quantities(), path)
    assert netcdf.read(path).identical(quantities())
    free[tempfile.gettempdir()] = 0
    with pytest.raises(OSError, match=r"disk full: no .* bytes free in /dev/shm or"):
        netcdf.write(quantities(), tmp_path / "other.nc")


def test_a_write_that_fails_in_the_library_leaves_nothing(path, monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(netcdf, "_scratch_folder", lambda _: tmp_path)
    monkeypatch.setattr(netcdf, "_fill", fail)
    with pytest.raises(RuntimeError, match="HDF error"):
        netcdf.write(quantities(), path)
    assert not list(tmp_path.iterdir())
