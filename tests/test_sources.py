"""Sources: what they give passes the schema, what they cannot use they refuse in words, and nothing is guessed."""

import gzip
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hydroda.forecast import known
from hydroda.schema import check_records, hours
from hydroda.sources import (
    csv_file,
    csv_folder,
    csv_table,
    drop_folder,
    netcdf_file,
    netcdf_folder,
    netcdf_table,
    synthetic,
)
from hydroda.sources.intake import Refused
from hydroda.storage import netcdf, records
from hydroda.storage.store import Store

REAL = Path(os.environ.get("HYDRODA_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
NOW = np.datetime64("2024-06-02T00:00", "ns")
HOUR, MINUTE = np.timedelta64(1, "h"), np.timedelta64(1, "m")


@dataclass(frozen=True)
class Gauge:
    id: str
    area_km2: float = 36.0


ALDER, FELL = Gauge("alder"), Gauge("fell", 360.0)
BOTH = (ALDER, FELL)


def parse(text, name="alder.csv", **options):
    data = text if isinstance(text, bytes) else text.encode()
    return check_records(csv_table.parse(data, name, BOTH, NOW, **{"station": "alder", **options}))


def table(*rows, header="time,precipitation,discharge"):
    return "\n".join([header, *rows]) + "\n"


# --- the parser ----------------------------------------------------------------------------------------------------


def test_a_table_becomes_records():
    rows = parse(table("2024-06-01T05:00:00,0.5,3.25", "2024-06-01T06:00Z,,3.5", "2024-06-01 09:00+02:00,1,"))
    assert rows["time"].values.astype("M8[h]").astype(str).tolist() == [f"2024-06-01T0{h}" for h in (5, 6, 7)]
    np.testing.assert_array_equal(rows["precipitation"], [0.5, np.nan, 1.0])
    np.testing.assert_array_equal(rows["discharge"], [3.25, 3.5, np.nan])
    assert rows["discharge"].attrs["units"] == "m3 s-1"
    assert (rows["known"] == rows["time"]).all() and rows.attrs["known_assumed"] == 1


def test_both_names_of_evapotranspiration_and_the_depth_column():
    rows = parse(table("2024-06-01T05:00,0.1,0.36", header="time,potential_evapotranspiration,discharge_mm"))
    assert rows["pet"].item() == 0.1
    assert rows["discharge"].item() == pytest.approx(3.6)  # 0.36 mm/h over 36 km2
    rows = parse(table("2024-06-01T05:00,0.2,7,0.36", header="time,pet,discharge,discharge_mm"))
    assert (rows["pet"].item(), rows["discharge"].item()) == (0.2, 7.0)


def test_the_station_column_decides_and_strangers_are_left_out():
    header = "time,station,discharge"
    rows = parse(table("2024-06-01T05:00,fell,1", "2024-06-01T05:00,alder,2", "2024-06-01T05:00,gone,3", header=header))
    assert sorted(zip(rows["station"].values, rows["discharge"].values, strict=True)) == [("alder", 2), ("fell", 1)]
    assert "1 rows" in rows.attrs["notes"][0] and "gone" in rows.attrs["notes"][0]


def test_the_known_column_is_used_where_it_says_something():
    rows = parse(table("2024-06-01T05:00,1,2024-06-01T09:20", "2024-06-01T06:00,1,", header="time,discharge,known"))
    assert (rows["known"] - rows["time"]).values.tolist() == [4 * 3600e9 + 20 * 60e9, 0]
    assert "known_assumed" not in rows.attrs


def test_odd_times():
    rows = parse(table("2016-12-31T23:59:60,1,1", "2024-02-29T23:00,1,1", "2000-01-01,1,1"))
    assert rows["time"].values.astype("M8[s]").astype(str).tolist() == [
        "2017-01-01T00:00:00",
        "2024-02-29T23:00:00",
        "2000-01-01T00:00:00",
    ]


def test_local_time_is_converted_and_the_ambiguous_hour_refused():
    lines = [f"2023-10-29T0{h}:00,1,{h}" for h in (0, 1, 2, 3, 4)]
    rows = parse(table(*lines, "2023-10-29T02:00+01:00,1,9"), timezone="Europe/Vienna")
    assert rows["discharge"].values.tolist() == [0, 1, 3, 4, 9]
    assert rows["time"].values.astype("M8[h]").astype(str).tolist()[1:3] == ["2023-10-28T23", "2023-10-29T02"]
    assert rows.attrs["rejected"] == 1 and "line 4" in rows.attrs["notes"][0]
    rows = parse(table("2024-03-31T02:00,1,1", "2024-03-31T03:00,1,1"), timezone="Europe/Vienna")
    assert rows.sizes["record"] == 1 and rows.attrs["rejected"] == 1


def test_disorder_blank_lines_comments_quotes_and_a_byte_order_mark_do_no_harm():
    text = '\ufeff# exported yesterday\r\n"time","discharge"\r\n"2024-06-01T07:00","3"\r\n\r\n2024-06-01T05:00,1\r\n'
    rows = parse(text)
    assert known.as_known(rows, ["alder"], hours(NOW - 19 * HOUR, NOW - 17 * HOUR))["discharge"][
        [0, 2], 0
    ].tolist() == [
        1,
        3,
    ]


def test_a_repeated_hour_is_a_revision_and_is_counted():
    rows = parse(table("2024-06-01T05:00,1,1", "2024-06-01T06:00,1,2", "2024-06-01T05:00,1,9", "2024-06-01T06:00,1,2"))
    assert "1 hours" in rows.attrs["notes"][0]
    assert known.as_known(rows, ["alder"], hours(NOW - 19 * HOUR, NOW - 18 * HOUR))["discharge"][:, 0].tolist() == [
        9,
        2,
    ]


def test_the_future_is_rejected_with_its_line():
    rows = parse(table("2024-06-01T05:00,1,1", "2024-06-02T00:00,1,1", "2024-06-02T01:00,1,1"))
    assert rows.sizes["record"] == 2 and rows.attrs["rejected"] == 1
    assert "line 4" in rows.attrs["notes"][0]


def test_sentinels_are_kept_for_quality_control_to_judge():
    rows = parse(table("2024-06-01T05:00,-999,-9999", "2024-06-01T06:00,0,-0.2"))
    assert rows["discharge"].values.tolist() == [-9999.0, -0.2]


def test_a_word_instead_of_a_number_is_left_out_and_said():
    """Gauges write words instead of values; the rain of the hour, and other stations, are not to suffer."""
    rows = parse(
        table("2024-06-01T05:00,1,2", "2024-06-01T06:00,3,Ice", "2024-06-01T07:00,inf,4", "2024-06-01T08:00,5,6")
    )
    assert rows.sizes["record"] == 4
    np.testing.assert_array_equal(rows["precipitation"].values, [1.0, 3.0, np.nan, 5.0])
    np.testing.assert_array_equal(rows["discharge"].values, [2.0, np.nan, 4.0, 6.0])
    assert rows.attrs["notes"] == (
        "alder.csv, line 4, column 'precipitation': 'inf' is not a number, left out",
        "alder.csv, line 3, column 'discharge': 'Ice' is not a number, left out",
    )
    frozen = [f"2024-06-01T{h:02d}:00,alder,1,Ice" for h in range(12)]
    header = "time,station,precipitation,discharge"
    rows = parse(table(*frozen, "2024-06-01T05:00,fell,1,7", header=header))
    assert rows.attrs["notes"][0].endswith("'Ice' is not a number, left out, 12 such fields in all")
    assert np.isfinite(rows["precipitation"].values).all() and np.nansum(rows["discharge"].values) == 7.0


GOOD = "2024-06-01T05:00,1,1"
FAULTS = {
    "no time column": (table("1,2", header="precipitation,discharge"), r"alder\.csv: no column 'time'.*precipitation"),
    "unknown column": (table("x,1,2", header="time,discharge,ph"), r"unknown column 'ph'; allowed are time.*rename"),
    "daily column": (
        table("x,1", header="time,precipitation_mm_per_day"),
        r"'precipitation_mm_per_day': the step is a day",
    ),
    "unit in the name": (table("x,1", header="time,discharge_cfs"), r"discharge_cfs.*convert it to m3/s"),
    "column twice": (table("x,1,1", header="time,discharge,discharge"), r"there 2 times"),
    "no values": (table("2024-06-01T05:00", header="time"), "no values"),
    "semicolons": (table("x;1", header="time;discharge"), "separated by ';'"),
    "unit in the field": (
        table(GOOD, "2024-06-01T06:00,1,5 m3/s"),
        r"line 3, column 'discharge': '5 m3/s' is not",
    ),
    "spaced thousands": (
        table(GOOD, "2024-06-01T06:00,1,1 250.5"),
        r"line 3, column 'discharge': '1 250.5' is not",
    ),
    "decimal commas": (table(GOOD, "2024-06-01T06:00,1,3,5"), "line 3: has 4 fields.*decimal points"),
    "short line": (table(GOOD, "2024-06-01T06:00", GOOD), "line 3: has 1 fields.*cut off"),
    "quarter hours": (table("2024-06-01T06:15,1,1"), r"line 2: time 2024-06-01T06:15:00 is not a full hour.*average"),
    "empty time": (table(",1,1"), "line 2, column 'time': is empty"),
    "day or month": (table("03/07/2003 06:00,1,1"), r"ambiguous \(day or month first"),
    "no such day": (table("2023-02-29T06:00,1,1"), "no possible time"),
    "words": (table("yesterday,1,1"), "'yesterday' is not an ISO time; write 2003"),
    "a year 9999": (table("9999-01-01T00:00,1,1"), "no possible time"),
    "daily step": (
        table(*(f"2024-05-{d:02d},1,1" for d in range(1, 12))),
        r"alder\.csv: station 'alder': the step is a day",
    ),
    "six hours": (table(*(f"2024-05-01T{h:02d}:00,1,1" for h in range(0, 24, 3)), GOOD), "step is 3 h, expected 1 h"),
    "web page": ("<html><body>Please log in</body></html>", "web page"),
    "nothing": ("", "is empty"),
    "other encoding": (table("2024-06-01T05:00,1,1").encode("utf-16"), "not UTF-8"),
    "run without publication": (table(f"{GOOD},2024-06-01", header="time,pet,discharge,reference_time"), "delay_hours"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_in_words(fault):
    text, message = FAULTS[fault]
    with pytest.raises(Refused, match=message):
        parse(text)


def test_damaged_compression_is_refused():
    whole = gzip.compress(table(*(f"2024-05-{1 + h // 24:02d}T{h % 24:02d}:00,1,{h}" for h in range(500))).encode())
    assert parse(whole, "alder.csv.gz").sizes["record"] == 500
    for data in (whole[: len(whole) // 2], whole[:-4], b"not gzip at all", whole[:100] + b"xxxx" + whole[104:]):
        with pytest.raises(Refused, match=r"alder\.csv\.gz.*copy it again"):
            parse(data, "alder.csv.gz")


def test_a_rare_hour_missing_or_a_few_single_hours_are_no_other_step():
    single = parse(table("2024-05-01T00:00,1,1", "2024-05-03T05:00,1,1", "2024-05-09T07:00,1,1"))
    gappy = parse(table(*(f"2024-05-01T{h:02d}:00,1,1" for h in (0, 1, 2, 4, 5, 6, 9, 10, 11))))
    assert (single.sizes["record"], gappy.sizes["record"]) == (3, 9)


def test_weather_forecasts_in_a_table():
    header = "time,reference_time,precipitation"
    text = table(*(f"2024-06-01T{6 + k:02d}:00,2024-06-01T06:00,{k}" for k in range(1, 9)), header=header)
    rows = parse(text, delay=np.timedelta64(4, "h"))
    assert rows.attrs["kind"] == "forecasts"
    assert (rows["known"].values == np.datetime64("2024-06-01T10:00")).all()
    rows = parse(text.replace("2024-06-01T06:00,", "2024-06-02T06:00,"), delay=np.timedelta64(4, "h"))
    assert rows.sizes["record"] == 0 and rows.attrs["rejected"] == 8


@pytest.mark.parametrize("name", ["dornbirnerach", "horte", "l0123003", "posina", "wye"])
def test_real_hourly_sets_are_read_whole(name):
    path = REAL / name / f"{name}_hourly.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set HYDRODA_REAL_DATA to the folder of real hourly sets")
    rows = check_records(
        csv_file.read(np.datetime64("1900-01-01"), NOW, [Gauge(name, 100.0)], path=path, now=NOW, station=name)
    )
    size = {"dornbirnerach": 70128, "horte": 166560, "l0123003": 35064, "posina": 35064, "wye": 15396}[name]
    assert rows.sizes["record"] == size and rows.attrs["rejected"] == 0


def test_the_daily_set_is_refused_in_words():
    path = REAL / "zwalm_daily" / "zwalm_daily.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set HYDRODA_REAL_DATA to the folder of real sets")
    with pytest.raises(Refused, match=r"zwalm_daily\.csv\.gz.*the step is a day, expected hourly"):
        csv_file.read(np.datetime64("1900-01-01"), NOW, [Gauge("zwalm")], path=path, station="zwalm")


# --- history -------------------------------------------------------------------------------------------------------


def test_history_of_a_folder(tmp_path):
    (tmp_path / "alder_2024.csv").write_text(table("2024-05-01T01:00,1,1", "2024-06-01T01:00,1,2"))
    (tmp_path / "fell.csv.gz").write_bytes(gzip.compress(table("2024-06-01T01:00,1,3").encode()))
    rows = csv_file.read(NOW - 200 * HOUR, NOW, BOTH, path=tmp_path, now=NOW)
    assert sorted(rows["discharge"].values) == [2, 3] and rows.attrs["known_assumed"] == 1
    (tmp_path / "other.csv").write_text(table("2024-06-01T01:00,1,3"))
    with pytest.raises(Refused, match="which station"):
        csv_file.read(NOW - 200 * HOUR, NOW, BOTH, path=tmp_path)


# --- the drop folder -----------------------------------------------------------------------------------------------


def put(path, text, age=3600.0):
    """A file last changed `age` seconds ago."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    then = time.time() - age
    os.utime(path, (then, then))


def drop(folder, now=NOW, gauges=BOTH, **options):
    return check_records(csv_folder.read(NOW - 48 * HOUR, NOW, gauges, folder=folder, now=now, **options))


def test_files_appear_grow_and_are_revised(tmp_path):
    store = Store(tmp_path / "store", "demo")
    folder = tmp_path / "drop"
    folder.mkdir()
    file = folder / "alder_telemetry.csv"

    def cycle(text, now):
        put(file, text, age=3600 - (now - NOW) / HOUR)
        rows = drop(folder, now)
        counts = store.append(rows, now)
        drop_folder.taken(rows)
        return counts

    lines = [f"2024-06-01T{h:02d}:00,0,{h}" for h in range(20, 24)]
    first = cycle(table(*lines[:2]), NOW - 2 * HOUR)
    assert (first.received, first.new) == (2, 2)
    grown = cycle(table(*lines[:3]), NOW - HOUR)
    assert (grown.received, grown.new, grown.duplicate) == (3, 1, 2)
    revised = cycle(table("2024-06-01T20:00,0,5", *lines[1:]), NOW)
    assert (revised.new, revised.revised, revised.duplicate) == (1, 1, 2)
    rows = drop(folder)
    assert rows.sizes["record"] == 0 and rows.attrs["notes"] == ()  # unchanged: not even opened
    back = store.observations(["alder"], NOW - 48 * HOUR, NOW)
    assert back.sizes["record"] == 5
    span = hours(NOW - 4 * HOUR, NOW - HOUR)
    assert known.as_known(back, ["alder"], span, NOW - HOUR)["discharge"][0, 0] == 20
    assert known.as_known(back, ["alder"], span, NOW)["discharge"][:, 0].tolist() == [5, 21, 22, 23]


@pytest.mark.parametrize(
    ("changed", "looked", "known"),
    [
        ("09:58:20", None, "09:58"),
        ("10:10:03", None, "10:10"),  # within the minute of the cut-off
        ("10:30:00", None, "10:10"),  # a clock ahead of ours: not after the reading
        ("09:58:20", "09:10:05", "09:58"),
        ("03:00:00", "09:10:05", "09:11"),  # a copy that kept its time was not there at the last look
        ("09:10:40", "09:10:05", "09:11"),
        ("10:10:03", "10:10:02", "10:11"),
    ],
)
def test_a_file_comes_when_it_is_changed_but_not_before_the_last_look(changed, looked, known):
    def at(text):
        return None if text is None else np.datetime64(f"2024-06-02T{text}", "ns")

    assert drop_folder.arrival(int(at(changed).astype(int)), at(looked), at("10:10:05")) == at(known)


def test_what_lies_there_at_the_cut_off_is_read_after_it_and_counts(tmp_path):
    """A run begins at its cut-off and reads seconds later; what another file brings later is known later."""
    store, folder = Store(tmp_path / "store", "demo"), tmp_path / "drop"
    folder.mkdir()
    cut_off = np.datetime64("now", "m").astype("datetime64[ns]") - 30 * MINUTE
    last = cut_off.astype("datetime64[h]").astype("datetime64[ns]")
    lines = [f"{np.datetime_as_string(last - i * HOUR, 'm')},0,{i}" for i in range(3)]
    elapsed = (np.datetime64("now", "ns") - cut_off) / np.timedelta64(1, "s")

    def cycle(lines, since):
        put(folder / "alder.csv", table(*lines), age=elapsed - since)
        rows = drop(folder, cut_off + np.timedelta64(int(since) + 5, "s"))
        store.append(rows, cut_off + HOUR)
        drop_folder.taken(rows)

    def newest(at):
        back = store.observations(["alder"], last - 4 * HOUR, last)
        return known.as_known(back, ["alder"], hours(last - 2 * HOUR, last), at)["discharge"][:, 0]

    cycle(lines[1:], -60.0)
    np.testing.assert_array_equal(newest(cut_off), [2, 1, np.nan])
    cycle(lines, 0.0)
    np.testing.assert_array_equal(newest(cut_off), [2, 1, 0])
    np.testing.assert_array_equal(newest(cut_off - MINUTE), [2, 1, np.nan])
    cycle([lines[0], lines[1][:-1] + "7", lines[2]], 90.0)
    np.testing.assert_array_equal(newest(cut_off), [2, 1, 0])
    np.testing.assert_array_equal(newest(cut_off + 2 * MINUTE), [2, 7, 0])
    assert store.observations(["alder"], last - 4 * HOUR, last).sizes["record"] == 4  # what is said again is not kept


def test_an_unchanged_file_that_is_read_again_does_not_undo_what_corrected_it(tmp_path):
    """As when a catchment is added, whose rows it may hold: its rows are as old as they were."""
    store, folder = Store(tmp_path / "store", "demo"), tmp_path / "drop"
    folder.mkdir()

    def look(now, gauges):
        rows = drop(folder, now, gauges)
        store.append(rows, now)
        drop_folder.taken(rows)

    def value():
        back = store.observations(["alder"], NOW - 48 * HOUR, NOW)
        return known.as_known(back, ["alder"], hours(NOW - 19 * HOUR, NOW - 19 * HOUR))["discharge"][0, 0]

    put(folder / "alder_b.csv", table("2024-06-01T05:00,1,5"))
    look(NOW - 3 * HOUR, (ALDER,))
    put(folder / "alder_a.csv", table("2024-06-01T05:00,1,9"))
    look(NOW - 2 * HOUR, (ALDER,))
    assert value() == 9.0
    look(NOW - HOUR, BOTH)
    assert value() == 9.0


def test_nothing_is_known_before_it_is_measured_or_a_run_begins(tmp_path):
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,5"))
    os.utime(tmp_path / "alder.csv", (0, 0))
    assert drop(tmp_path)["known"].values.tolist() == [np.datetime64("2024-06-01T05:00", "ns").astype(int)]
    header = "time,reference_time,precipitation"
    put(tmp_path / "alder.csv", table("2024-06-01T09:00,2024-06-01T06:00,1", header=header))
    os.utime(tmp_path / "alder.csv", (0, 0))
    found = drop(tmp_path, content="forecasts")
    assert found["known"].values.tolist() == [np.datetime64("2024-06-01T06:00", "ns").astype(int)]


def test_a_file_that_grew_after_it_was_read_is_not_moved_away(tmp_path):
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,1"))
    rows = drop(tmp_path)
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,1", "2024-06-01T06:00,1,2"), age=1800.0)
    (tmp_path / "alder.csv.done").write_text("")
    drop_folder.taken(rows)
    assert (tmp_path / "alder.csv").exists()
    rows = drop(tmp_path)
    assert rows.sizes["record"] == 2
    drop_folder.taken(rows)
    assert (tmp_path / "done" / "alder.csv").exists()


def test_what_was_not_stored_is_offered_again(tmp_path):
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,1"))
    assert drop(tmp_path).sizes["record"] == 1
    rows = drop(tmp_path)
    assert rows.sizes["record"] == 1  # the first was never reported as taken
    drop_folder.taken(rows)
    assert drop(tmp_path).sizes["record"] == 0
    (tmp_path / ".hydroda_observations.json").write_text("{broken")
    assert drop(tmp_path).sizes["record"] == 1


def test_a_half_written_last_line_waits(tmp_path):
    file = tmp_path / "alder.csv"
    half = table("2024-06-01T05:00,1,1") + "2024-06-01T06:00,1,1"  # of 12.5
    put(file, half, age=1)
    rows = drop(tmp_path)
    assert rows["time"].values.tolist() == [(NOW - 19 * HOUR).astype(int)]
    drop_folder.taken(rows)
    put(file, half + "2.5\n", age=1)
    rows = drop(tmp_path)
    assert rows["discharge"].values.tolist() == [1, 12.5]
    put(file, half, age=600)  # nobody writes any more: the end of the file is the end of the line
    assert drop(tmp_path).sizes["record"] == 2


def test_a_growing_archive_waits_and_a_broken_one_moves_to_failed(tmp_path):
    data = gzip.compress(table("2024-06-01T05:00,1,1").encode())
    file = tmp_path / "alder.csv.gz"
    for end in (10, 20, 30, 40):
        put(file, data[:end], age=1)
        assert "still changing" in drop(tmp_path).attrs["notes"][0]
    put(file, data[:40])
    (tmp_path / "fell.csv").write_text(table("2024-06-01T05:00,1,1"))
    for i in (1, 2, 3):
        rows = drop(tmp_path)
        assert rows["station"].values.tolist() == ["fell"]  # the good file is not held up
        note = rows.attrs["notes"][0]
        assert (f"try {i} of 3" in note) == (i < 3), note
    assert "moved to failed" in note and not file.exists()
    assert (tmp_path / "failed" / "alder.csv.gz").read_bytes() == data[:40]
    why = (tmp_path / "failed" / "alder.csv.gz.why").read_text()
    assert "end early" in why and "put it back" in why
    put(file, b"again")
    for _ in range(3):
        drop(tmp_path)
    assert (tmp_path / "failed" / "alder.csv.gz.1.why").exists()


def test_a_corrected_file_starts_anew(tmp_path):
    file = tmp_path / "alder.csv"
    put(file, table("yesterday,1,1"), age=5000)
    drop(tmp_path), drop(tmp_path)
    put(file, table("tomorrow,1,1"), age=4000)
    assert "try 1" in drop(tmp_path).attrs["notes"][0]
    put(file, table("2024-06-01T05:00,1,1"), age=3000)
    assert drop(tmp_path).sizes["record"] == 1


def test_a_marked_file_goes_to_done_once_it_is_stored(tmp_path):
    file = tmp_path / "alder.csv"
    put(file, table("2024-06-01T05:00,1,1") + "2024-06-01T06:00,1,2", age=1)
    (tmp_path / "alder.csv.done").touch()
    rows = drop(tmp_path)
    assert rows.sizes["record"] == 2 and file.exists()
    drop_folder.taken(rows)
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == ["alder.csv", "alder.csv.done"]
    assert drop(tmp_path).sizes["record"] == 0


def test_rows_of_the_future_and_of_new_stations_are_not_lost(tmp_path):
    put(
        tmp_path / "all.csv",
        table("2024-06-01T05:00,alder,1", "2024-06-02T03:00,fell,2", header="time,station,discharge"),
    )
    rows = drop(tmp_path, gauges=(ALDER,))
    assert rows["station"].values.tolist() == ["alder"]
    drop_folder.taken(rows)
    rows = drop(tmp_path)  # fell was added to the settings
    assert rows.sizes["record"] == 1 and rows.attrs["rejected"] == 1
    drop_folder.taken(rows)
    rows = drop(tmp_path, now=NOW + 3 * HOUR)
    assert sorted(rows["station"].values) == ["alder", "fell"]


def test_the_longest_id_in_a_name_counts():
    gauges = (Gauge("upper"), Gauge("upper_brook"), Gauge("brook"))
    for name, station in (
        ("upper_brook_2024.csv", "upper_brook"),
        ("upper_2024.csv.gz", "upper"),
        ("upper.csv", "upper"),
        ("upperbrook.csv", None),
    ):
        assert drop_folder.station_of(name, gauges) == station


def test_observations_and_forecasts_may_share_a_folder(tmp_path):
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,1"))
    put(tmp_path / "alder_nwp.csv", table("2024-06-01T05:00,2024-06-01,1", header="time,reference_time,precipitation"))
    observed, forecast = drop(tmp_path), drop(tmp_path, content="forecasts")
    assert (observed.sizes["record"], forecast.sizes["record"]) == (1, 1)
    assert (forecast["known"].values == NOW).all()
    assert observed.attrs["notes"] == () and not (tmp_path / "failed").exists()


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it"):
        drop(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / ".hidden.csv").write_text("hello")
    assert drop(tmp_path).sizes["record"] == 0


# --- NetCDF --------------------------------------------------------------------------------------------------------


def series(units="m3 s-1", name="discharge", value=10.0, **attrs):
    span = hours(NOW - 5 * HOUR, NOW - HOUR)
    values = np.full((5, 2), value)
    values[2, 1] = np.nan
    return xr.Dataset(
        {name: (("time", "station"), values, {"units": units, "long_name": "x", **attrs})},
        {"time": ("time", span), "station_id": ("station", ["fell", "alder"], {"cf_role": "timeseries_id"})},
    )


def test_series_by_station(tmp_path):
    netcdf.write(series(), tmp_path / "gauges.nc")
    rows = check_records(netcdf_folder.read(NOW, NOW, BOTH, folder=tmp_path, now=NOW))
    assert rows.sizes["record"] == 9 and (rows["known"].values == NOW).all()
    values = known.as_known(rows, ["alder", "fell"], hours(NOW - 5 * HOUR, NOW - HOUR))["discharge"]
    assert np.isnan(values[2, 0]) and (values[:, 1] == 10).all()
    drop_folder.taken(rows)
    assert netcdf_folder.read(NOW, NOW, BOTH, folder=tmp_path, now=NOW).sizes["record"] in (0, 9)  # 9: not yet settled


@pytest.mark.parametrize(
    ("name", "units", "attrs", "expected"),
    [
        ("discharge", "ft3 s-1", {}, 0.28316846592),
        ("discharge", "l/s", {}, 0.01),
        ("q", "m^3/s", {"standard_name": "water_volume_transport_in_river_channel"}, 10.0),
        ("precipitation", "kg m-2 s-1", {}, 36000.0),
        ("precipitation", "mm", {"cell_methods": "time: sum"}, 10.0),
        ("t2m", "K", {"standard_name": "air_temperature"}, -263.15),
        ("temperature", "degF", {}, (10 - 32) / 1.8),
        ("potential_evapotranspiration", "m s-1", {}, 3.6e7),
    ],
)
def test_units_are_converted_by_the_table(name, units, attrs, expected):
    rows = netcdf_table.from_dataset(series(units, name, **attrs), "x.nc", BOTH, NOW)
    (variable,) = (str(v) for v in rows.data_vars)
    np.testing.assert_allclose(rows[variable].values, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "units", "message"),
    [
        ("discharge", "", "has no units, expected 'm3 s-1'"),
        ("discharge", "mm h-1", "is in 'mm h-1'"),
        ("precipitation", "mm", "is in 'mm'.*never guessed"),
        ("temperature", "kg m-2 s-1", "is in"),
        ("precipitation", "mm/day", "is in 'mm/day'"),
        ("stage", "m", "has none of"),
    ],
)
def test_other_units_are_refused(name, units, message):
    with pytest.raises(Refused, match=message):
        netcdf_table.from_dataset(series(units, name), "x.nc", BOTH, NOW)


def test_the_long_form_brings_weather_forecasts(tmp_path):
    reference = np.repeat([NOW - 12 * HOUR, NOW - 6 * HOUR], 4)
    valid = reference + np.tile(np.arange(1, 5), 2) * HOUR
    ds = xr.Dataset(
        {"precipitation": ("record", np.arange(8.0), {"units": "mm h-1", "long_name": "x"})},
        {
            "time": ("record", valid),
            "reference_time": ("record", reference),
            "known": ("record", reference + 4 * HOUR),
            "station": ("record", np.tile(["alder", "fell"], 4)),
        },
    )
    netcdf.write(ds, tmp_path / "nwp.nc", record_dim=None)
    rows = check_records(netcdf_folder.read(NOW, NOW, (ALDER,), folder=tmp_path, now=NOW, content="forecasts"))
    assert rows["precipitation"].values.tolist() == [0, 2, 4, 6]
    assert (rows["known"] - rows["reference_time"] == 4 * HOUR).all()
    assert netcdf_folder.read(NOW, NOW, (ALDER,), folder=tmp_path, now=NOW).sizes["record"] == 0


def test_netcdf_history_is_known_at_once_and_forecasts_are_not(tmp_path):
    netcdf.write(series(), tmp_path / "gauges.nc")
    rows = check_records(netcdf_file.read(NOW - 4 * HOUR, NOW, BOTH, path=tmp_path, now=NOW))
    assert rows.sizes["record"] == 7 and rows.attrs["known_assumed"] == 1
    assert (rows["known"] == rows["time"]).all()
    ds = series("mm h-1", "precipitation").assign_coords(reference_time=NOW - 24 * HOUR)
    netcdf.write(ds, tmp_path / "run.nc")
    with pytest.raises(Refused, match="delay_hours"):
        netcdf_file.read(NOW - 4 * HOUR, NOW, BOTH, path=tmp_path / "run.nc", now=NOW)
    rows = netcdf_file.read(NOW - 4 * HOUR, NOW, BOTH, path=tmp_path / "run.nc", now=NOW, delay_hours=4.5)
    assert rows.attrs["kind"] == "forecasts" and (rows["known"].values == np.datetime64("2024-06-01T04:30")).all()
    with pytest.raises(Refused, match="two folders"):
        netcdf_file.read(NOW - 4 * HOUR, NOW, BOTH, path=tmp_path, now=NOW, delay_hours=4.5)


def test_a_damaged_netcdf_file_is_moved_to_failed(tmp_path):
    netcdf.write(series(), tmp_path / "gauges.nc", checksum=False)
    put(tmp_path / "gauges.nc", (tmp_path / "gauges.nc").read_bytes()[:3000])
    for _ in range(3):
        rows = netcdf_folder.read(NOW, NOW, BOTH, folder=tmp_path, now=NOW)
        assert rows.sizes["record"] == 0
    assert (tmp_path / "failed" / "gauges.nc.why").exists()


# --- made-up data --------------------------------------------------------------------------------------------------


def test_synthetic_data_do_not_depend_on_what_is_asked_for():
    start = np.datetime64("2024-03-01T00:00", "ns")
    whole = check_records(synthetic.read(start, start + 200 * HOUR, BOTH, now=start + 300 * HOUR))
    part = synthetic.read(start + 100 * HOUR, start + 110 * HOUR, (FELL,), now=start + 300 * HOUR)
    span = hours(start + 100 * HOUR, start + 110 * HOUR)
    for name, values in known.as_known(part, ["fell"], span).items():
        np.testing.assert_array_equal(values, known.as_known(whole, ["fell"], span)[name])
        assert np.isfinite(values).all()
    assert np.unique(whole["station"]).tolist() == ["alder", "fell"]
    late = synthetic.read(start, start + 200 * HOUR, BOTH, now=start + 50 * HOUR)
    assert late["time"].values.max() == start + 50 * HOUR
    other = synthetic.read(start, start + 200 * HOUR, BOTH, now=start + 300 * HOUR, seed=1)
    assert not np.allclose(other["discharge"].values, whole["discharge"].values)


def test_json_memory_is_plain(tmp_path):
    put(tmp_path / "alder.csv", table("2024-06-01T05:00,1,1"))
    drop_folder.taken(drop(tmp_path))
    memory = json.loads((tmp_path / ".hydroda_observations.json").read_text())
    assert memory["alder.csv"]["finished"] is True
    drop_folder.taken(records.empty("observations"))  # records of another source: nothing to do
