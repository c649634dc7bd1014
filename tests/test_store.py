"""The store: same facts, same state, whatever the order; one writer; nothing lost, nothing damaged that looks whole."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydroda.forecast import known
from hydroda.schema import SchemaError, hours
from hydroda.storage import netcdf, records
from hydroda.storage.lock import Busy
from hydroda.storage.store import Store

T0 = np.datetime64("2024-03-01T00:00", "ns")
HOUR, MINUTE = np.timedelta64(1, "h"), np.timedelta64(1, "m")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, "demo")


def facts(rows, station="alder", name="discharge", **attrs):
    """Records from (hour after T0, minutes after that hour when known, value)."""
    hour, wait, value = (np.array(column) for column in zip(*rows, strict=True))
    valid = T0 + hour * HOUR
    return records.build([station] * len(rows), valid, valid + wait * MINUTE, {name: value}, **attrs)


def reading(rows, at, station="alder", **attrs):
    """Records whose known time is only the time of reading, `at` hours after T0."""
    hour, value = (np.array(column) for column in zip(*rows, strict=True))
    now = T0 + at * HOUR
    return records.build(
        [station] * len(rows), T0 + hour * HOUR, np.full(len(rows), now), {"discharge": value}, read_at=now, **attrs
    )


def everything(store, stations=("alder",), kind="observations"):
    return getattr(store, kind)(stations, T0 - 20_000 * HOUR, T0 + 20_000 * HOUR)


def newest(store, n=6, at=None, station="alder"):
    return known.as_known(everything(store, [station]), [station], hours(T0, T0 + (n - 1) * HOUR), at)["discharge"][
        :, 0
    ]


# --- what is kept --------------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back(store):
    counts = store.append(facts([(0, 5, 1.0), (1, 5, 2.0), (1, 300, 2.5)]), now=T0 + 50 * HOUR)
    assert (counts.received, counts.new, counts.revised, counts.late) == (3, 2, 1, 1)
    back = everything(store)
    assert back["discharge"].values.tolist() == [1.0, 2.0, 2.5]
    assert back["discharge"].attrs["units"] == "m3 s-1"
    assert back["known"].values[2] == T0 + HOUR + 300 * MINUTE
    assert newest(store, 3, T0 + 2 * HOUR).tolist()[:2] == [1.0, 2.0]
    assert newest(store, 3).tolist()[:2] == [1.0, 2.5]


def test_repeating_an_append_changes_no_byte(store):
    batch = facts([(0, 5, 1.0), (1, 5, -999.0), (2, 5, 0.0)])
    store.append(batch, now=T0 + 50 * HOUR)
    path = next(store.folder.rglob("2024.nc"))
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    counts = store.append(batch, now=T0 + 60 * HOUR)
    assert (counts.duplicate, counts.new, counts.revised) == (3, 0, 0)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, written)
    assert newest(store, 3).tolist() == [1.0, -999.0, 0.0]  # kept as received: judging it is not the store's affair


events = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.sampled_from(["discharge", "precipitation"])),
    st.sampled_from([0.0, 1.0, 2.0]),  # few values, so that they come back after a revision
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(events, st.randoms(use_true_random=False), st.integers(1, 6))
def test_order_duplicates_and_batches_do_not_matter(given_events, rng, size):
    rows = [
        facts([(hour, 20 * wait, value)], name=name, read_at=T0 + 500 * HOUR)
        for (hour, wait, name), value in given_events.items()
    ]
    rows.sort(key=lambda one: one["known"].values[0])
    ordered = records.empty("observations")
    for one in rows:
        ordered, _ = records.merge(ordered, one)
    shuffled = [*rows, *rng.choices(rows, k=5)]
    rng.shuffle(shuffled)
    state = records.empty("observations")
    for i in range(0, len(shuffled), size):
        state, _ = records.merge(state, records.join(shuffled[i : i + size], "observations"))
    assert state.equals(ordered)


def test_order_does_not_matter_on_disk_either(tmp_path):
    rng = random.Random(3)
    rows = [
        facts([(hour, 30 * wait, float(rng.randrange(4)))], station, read_at=T0 + 2000 * HOUR)
        for hour in (-1441, -1440, 0, 1)  # the first two are the turn of the year
        for wait in range(4)
        for station in ("alder", "fell")
    ]
    states = []
    for name in "ab":
        store = Store(tmp_path / name, "demo")
        for i in range(0, len(rows), 3):
            store.append(records.join(rows[i : i + 3], "observations"))
        states.append(everything(store, ["fell", "alder"]))
        assert len(list(store.folder.rglob("*.nc"))) == 4
        rng.shuffle(rows)
    assert states[0].equals(states[1])


def test_reading_an_unchanged_value_again_is_no_news(store):
    for at in range(5, 12):
        counts = store.append(reading([(0, 1.0), (1, 2.0)], at))
    assert counts.duplicate == 2
    assert everything(store).sizes["record"] == 2
    assert (everything(store)["known"].values == T0 + 5 * HOUR).all()


def test_a_value_taken_back_counts_again(store):
    for at, value in ((5, 1.0), (6, 2.0), (7, 1.0), (8, 1.0)):
        store.append(reading([(0, value)], at))
    assert everything(store)["discharge"].values.tolist() == [1.0, 2.0, 1.0]
    assert newest(store, 1) == [1.0]


def test_a_second_value_for_the_same_known_time_is_known_when_read(store):
    store.append(facts([(0, 5, 1.0)], read_at=T0 + 2 * HOUR))
    counts = store.append(facts([(0, 5, 3.0)], read_at=T0 + 9 * HOUR))
    assert counts.revised == 1
    assert newest(store, 1, T0 + 8 * HOUR) == [1.0]
    assert newest(store, 1, T0 + 9 * HOUR) == [3.0]


def test_history_imported_again_is_a_revision_of_today(store):
    def history(value, at):
        return facts([(0, 0, value), (1, 0, 5.0)], read_at=T0 + at * HOUR, known_assumed=1)

    store.append(history(1.0, 100))
    assert everything(store).attrs["known_assumed"] == 1
    store.append(history(1.0, 110))
    store.append(history(2.0, 120))
    store.append(history(1.0, 130))
    back = everything(store)
    assert back["discharge"].values.tolist() == [1.0, 2.0, 1.0, 5.0]
    assert list(back["known"].values[1:3]) == [T0 + 120 * HOUR, T0 + 130 * HOUR]


def test_variables_of_one_hour_from_two_sources_meet(store):
    store.append(facts([(0, 5, 1.0)]))
    store.append(facts([(0, 5, 0.4)], name="precipitation"))
    back = everything(store)
    assert back.sizes["record"] == 1
    assert (back["discharge"].item(), back["precipitation"].item()) == (1.0, 0.4)


def test_the_future_is_rejected_and_counted(store):
    batch = facts([(0, 0, 1.0), (1, 0, 1.0), (30, 0, 9.0)], rejected=2, notes=("line 7: no time",))
    counts = store.append(batch, now=T0 + HOUR - 4 * MINUTE)  # within the tolerance of the second
    assert (counts.received, counts.new, counts.rejected) == (5, 2, 3)
    assert any("2024-03-02T06:00Z" in problem for problem in counts.problems) and "line 7" in counts.problems[0]
    assert np.isnan(newest(store, 31)[30])


def test_an_id_that_is_a_path_is_refused(store):
    with pytest.raises(SchemaError, match="not usable"):
        store.append(facts([(0, 5, 1.0)], station="../evil"))
    for kind in ("../fc", "a/b", ""):
        with pytest.raises(ValueError, match="file name"):
            store.product_path(kind, T0)
    with pytest.raises(SchemaError):
        store.parameters_path("a/b")


# --- what was known when -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(events)
def test_as_known_is_what_a_plain_loop_finds(given_events):
    batch = records.join(
        [facts([(h, 20 * wait, value)], name=name) for (h, wait, name), value in given_events.items()], "observations"
    )
    span = hours(T0, T0 + 3 * HOUR)
    at = span + 90 * MINUTE
    arrays = known.as_known(batch, ["alder"], span, at)
    for i in range(4):
        for name in ("discharge", "precipitation"):
            seen = [(w, v) for (h, w, n), v in given_events.items() if h == i and n == name and 20 * w <= 90]
            expected = max(seen)[1] if seen else np.nan
            np.testing.assert_equal(arrays[name][i, 0], expected)


@settings(max_examples=60, deadline=None)
@given(events, st.integers(0, 100))
def test_on_time_values_and_late_changes_give_any_cut_off(given_events, minutes):
    batch = records.join(
        [facts([(h, 20 * wait, value)], name=name) for (h, wait, name), value in given_events.items()], "observations"
    )
    span, cut_off = hours(T0, T0 + 9 * HOUR), minutes * MINUTE
    values = known.as_known(batch, ["alder"], span, span + cut_off)
    changes = known.late(batch, ["alder"], span, cut_off)
    previous = span[0] - 1000 * HOUR
    for i, hour in enumerate(span):
        known.replay(values, changes, previous, hour + cut_off)
        previous = hour + cut_off
        direct = known.as_known(batch, ["alder"], span, hour + cut_off)
        for name in direct:
            np.testing.assert_array_equal(values[name][: i + 1], direct[name][: i + 1])


def test_stations_are_found_by_id_never_by_position(store):
    store.append(facts([(0, 0, 1.0)], "alder"))
    store.append(facts([(0, 0, 2.0)], "fell"))
    arrays = known.as_known(everything(store, ["fell", "alder"]), ["fell", "gone", "alder"], hours(T0, T0))
    np.testing.assert_array_equal(arrays["discharge"], [[2.0, np.nan, 1.0]])


def forecast(run, wait, leads, value, station="alder"):
    reference = np.full(len(leads), T0 + run * HOUR)
    valid = reference + np.array(leads) * HOUR
    amounts = np.full(len(leads), float(value))
    return records.build(
        [station] * len(leads), valid, reference + wait * MINUTE, {"precipitation": amounts}, reference
    )


def test_of_overlapping_weather_runs_the_newest_available_counts(store):
    store.append(forecast(0, 240, range(1, 13), 1), now=T0 + 30 * HOUR)
    store.append(forecast(6, 240, range(1, 13), 2), now=T0 + 30 * HOUR)
    counts = store.append(forecast(6, 240, range(1, 13), 2), now=T0 + 30 * HOUR)
    assert counts.duplicate == 12
    table = known.forecast_table(everything(store, kind="forecasts"), ["alder"])
    span = hours(T0 + 9 * HOUR, T0 + 20 * HOUR)
    before, run = known.newest_forecast(table, span, T0 + 9 * HOUR)
    assert before["precipitation"][:4, 0].tolist() == [1, 1, 1, 1]
    assert np.isnan(before["precipitation"][4:]).all() and np.isnat(run["precipitation"][4:]).all()
    after, run = known.newest_forecast(table, span, T0 + 10 * HOUR)
    assert after["precipitation"][:, 0].tolist()[:10] == [2] * 10 and np.isnan(after["precipitation"][10:]).all()
    assert (run["precipitation"][:10] == T0 + 6 * HOUR).all()


def test_a_weather_run_of_the_future_is_rejected(store):
    counts = store.append(forecast(40, 0, [1], 1.0), now=T0)
    assert counts.rejected == 1 and counts.new == 0


# --- faults --------------------------------------------------------------------------------------------------------


def test_a_damaged_year_is_set_aside_and_the_others_go_on(store, caplog):
    for station in ("alder", "fell"):
        store.append(facts([(0, 5, 1.0), (-1441, 5, 7.0)], station))
    bad = store.folder / "observations" / "alder" / "2024.nc"
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 0xFF
    bad.write_bytes(content)
    back = everything(store, ["alder", "fell"])
    assert sorted(zip(back["station"].values, back["discharge"].values, strict=True)) == [
        ("alder", 7.0),
        ("fell", 1.0),
        ("fell", 7.0),
    ]
    assert "2024.nc" in back.attrs["notes"][0] and "2024.nc" in caplog.text
    counts = store.append(records.join([facts([(2, 5, 4.0)], s) for s in ("alder", "fell")], "observations"))
    assert counts.new == 2 and "set aside" in counts.problems[0]
    assert [p.read_bytes() for p in bad.parent.glob("2024.nc.damaged-*") if p.suffix != ".sha256"] == [bytes(content)]
    assert everything(store, ["alder"])["discharge"].values.tolist() == [7.0, 4.0]


def test_a_foreign_file_is_not_read_as_ours(store):
    store.append(facts([(0, 5, 1.0)]))
    path = store.folder / "observations" / "alder" / "2024.nc"
    moved = store.folder / "observations" / "fell" / "2024.nc"
    moved.parent.mkdir()
    path.rename(moved)
    netcdf.sidecar_path(path).rename(netcdf.sidecar_path(moved))
    assert everything(store, ["fell"]).sizes["record"] == 0


def test_a_station_that_cannot_be_written_does_not_stop_the_others(store):
    blocked = store.folder / "observations" / "alder"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    counts = store.append(records.join([facts([(0, 5, 1.0)], s) for s in ("alder", "fell")], "observations"))
    assert counts.new == 1 and "alder" in counts.problems[0]
    assert newest(store, 1, station="fell") == [1.0]


def test_a_second_writer_is_told_who_the_first_is(store):
    with store.lock("run"), store.lock("other"):
        with pytest.raises(Busy, match=rf"pid {os.getpid()} since"), store.lock("run"):
            pass
        with pytest.raises(Busy), store.lock("run", wait=0.1):
            pass
    with store.lock("run"):
        pass


def test_the_lock_of_a_killed_process_is_free(store):
    code = f"""
import sys, time
from pathlib import Path
from hydroda.storage.lock import hold
with hold(Path({str(store.folder / ".run.lock")!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"pid {process.pid}"), store.lock("run"):
        pass
    process.kill()
    process.wait()
    with store.lock("run"):
        pass


def test_sources_read_side_by_side_lose_nothing(store):
    def work(offset):
        for hour in range(5):
            store.append(facts([(offset + hour, 5, float(hour))]))

    threads = [threading.Thread(target=work, args=(10 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(store).sizes["record"] == 20


def test_killed_at_any_moment_the_store_stays_readable(tmp_path):
    code = """
import sys
from pathlib import Path
import numpy as np
from hydroda.storage import records
from hydroda.storage.store import Store
store, hour, t0 = Store(Path(sys.argv[1]), "demo"), np.timedelta64(1, "h"), np.datetime64("2024-03-01", "ns")
for i in range(10_000):
    valid = np.array([t0 + i * hour])
    store.append(records.build(["alder"], valid, valid, {"discharge": np.array([float(i)])}))
    print(i, flush=True)
"""
    store, rng = Store(tmp_path, "demo"), random.Random(1)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        done = int((process.stdout.read().split() or ["0"])[-1])
        process.wait()
        values = newest(store, done + 1)
        assert values.tolist() == [float(i) for i in range(done + 1)]
    assert not list(store.folder.rglob("*damaged*"))
    stray = set(store.folder.rglob(".*.tmp"))
    assert store.remove_stale_temporaries() == []  # too fresh: another writer may be at work
    assert set(store.remove_stale_temporaries(older_than=-1)) == stray


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_say_domain_kind_and_time(store):
    cycle = np.datetime64("2025-01-02T03:00", "ns")
    folder = store.root / "demo"
    assert store.product_path("fc", cycle) == folder / "fc/2025/01/02/hydroda_demo_fc_20250102T0300Z.nc"
    assert store.product_path("an", cycle) == folder / "an/2025/01/02/hydroda_demo_an_20250102.nc"
    assert store.product_path("fc", cycle, ".csv").name == "hydroda_demo_fc_20250102T0300Z.csv"
    archive = folder / "hindcast/archived/hydroda_demo_hindcast-archived_202501.nc"
    assert store.archive_path("archived", cycle) == archive
    assert store.latest_path(".geojson") == folder / "latest.geojson"


def test_parameters_are_kept_and_damage_is_said(store):
    assert store.read_parameters("alder") is None
    store.write_parameters("alder", {"beta": 0.1 + 0.2, "name": "Bäch"})
    assert store.read_parameters("alder") == {"beta": 0.1 + 0.2, "name": "Bäch"}
    with pytest.raises(ValueError, match="JSON"):
        store.write_parameters("alder", {"beta": float("nan")})
    assert store.read_parameters("alder")["beta"] == 0.1 + 0.2
    store.parameters_path("alder").write_text('{"beta": 0.3')
    with pytest.raises(netcdf.DamagedFile, match=r"alder\.json.*calibrate"):
        store.read_parameters("alder")


def fake_belief(store, cycle, complete=True):
    path = store.belief_path(cycle)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    if complete:
        netcdf.sidecar_path(path).write_text("0")


def test_only_complete_beliefs_count_newest_first(store):
    for hour, complete in ((0, True), (1, True), (2, False), (30, True)):
        fake_belief(store, T0 + hour * HOUR, complete)
    assert store.cycles("belief") == [T0 + 30 * HOUR, T0 + HOUR, T0]
    assert store.cycles("belief", until=T0 + 2 * HOUR) == [T0 + HOUR, T0]


def test_retention_thins_out_and_never_takes_the_newest(store):
    now = np.datetime64("2024-06-15T00:00", "ns")
    for cycle in hours(now - 150 * 24 * HOUR, now):
        fake_belief(store, cycle)
    planned = store.retention(now, dry_run=True)
    assert all(path.exists() for path in planned)
    assert store.retention(now) == planned
    left = np.array(store.cycles("belief"))
    assert ((now - left) <= 7 * 24 * HOUR).sum() == 7 * 24 + 1
    daily = left[((now - left) > 7 * 24 * HOUR) & ((now - left) <= 60 * 24 * HOUR)]
    assert len(daily) == 53 and all(str(cycle).endswith("T00:00:00.000000000") for cycle in daily)
    old = left[(now - left) > 60 * 24 * HOUR]
    assert [str(cycle)[:10] for cycle in old] == ["2024-04-01", "2024-03-01", "2024-02-01", "2024-01-17"]
    assert not store.retention(now)
    later = now + 4000 * 24 * HOUR
    store.retention(later)
    assert store.cycles("belief")[0] == now
