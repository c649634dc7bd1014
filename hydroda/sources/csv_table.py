"""The one parser of CSV tables, for every source that meets them.

    time,precipitation,temperature,potential_evapotranspiration,discharge[,known][,station][,reference_time]

`time` ends the hour; without a zone it is UTC. mm/h, degC, mm/h, m3/s. `known` is when the row became known, empty =
what the source assumes. `reference_time` is the start of a weather run and makes the table one of forecasts.
`discharge_mm` [mm/h over the catchment] is used where there is no `discharge`. An empty field is a missing value. Lines
that start with # are comments. A word instead of a number ("Ice") is left out and said.
"""

import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from hydroda.sources.intake import Refused, assumed_known, tidy
from hydroda.storage import records
from hydroda.storage.records import Gauge
from hydroda.units import m3_per_second

COLUMNS = {
    "precipitation": "precipitation",
    "temperature": "temperature",
    "potential_evapotranspiration": "pet",
    "pet": "pet",
    "discharge": "discharge",
    "discharge_mm": "discharge_mm",
}
STAMPS = ("time", "known", "reference_time")
EMPTY = ("", "NA", "NaN", "nan")
MAX_BYTES = 256 << 20
ISO = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?\s?(?:Z|[+-]\d\d:?\d\d)?"
ZONED = r".*(?:Z|[+-]\d\d:?\d\d)"


@dataclass(frozen=True)
class Table:
    """The text of a table: one column of strings per name, and the line of each row in the file."""

    name: str
    text: pd.DataFrame
    line: np.ndarray

    def refuse(self, row: int, column: str, what: str) -> Refused:
        return Refused(f"{self.name}, line {self.line[row]}, column {column!r}: {what}")


def parse(
    data: bytes,
    name: str,
    gauges: Sequence[Gauge],
    now: np.datetime64,
    *,
    station: str | None = None,
    known: np.datetime64 | None = None,
    delay: np.timedelta64 | None = None,
    timezone: str = "UTC",
) -> xr.Dataset:
    """The records in the bytes of a CSV file, compressed where `name` ends with .gz.

    `station` is the id of rows without a `station` column. Where a row does not say when it became known, it is
    `known`, or, if that is None, its own hour (forecasts: the start of the run + `delay`). Stamps without a zone are
    in `timezone`. Raises Refused naming file, line and column.
    """
    table = _table(_text(data, name), name)
    columns = set(table.text.columns)
    gauge_of = {gauge.id: gauge for gauge in gauges}
    if "station" in columns:
        stations = table.text["station"].str.strip().to_numpy(dtype=str)
    elif station is not None:
        stations = np.full(len(table.line), station)
    else:
        raise Refused(f"{name}: which station? name the file <id>.csv or <id>_….csv, or add a column 'station'")
    notes: list[str] = []
    stamps = {column: _stamps(table, column, timezone) for column in STAMPS if column in columns}
    impossible = np.isnat(stamps["time"])
    if impossible.any():
        notes.append(
            f"{int(impossible.sum())} rows have a local time that is ambiguous or does not exist in {timezone} and "
            f"were rejected, the first at line {table.line[impossible][0]}; give UTC or an offset such as +01:00"
        )
    values = {column: _numbers(table, column, notes) for column in COLUMNS if column in columns}
    reference = stamps.get("reference_time")
    said = stamps.get("known", np.full(len(table.line), np.datetime64("NaT"), "datetime64[ns]"))
    if np.isnat(said).any():
        said = np.where(np.isnat(said), assumed_known(stamps["time"], reference, known, delay, name), said)
    rows = records.build(
        stations,
        stamps["time"],
        said,
        _discharge({COLUMNS[column]: value for column, value in values.items()}, stations, gauge_of),
        reference,
        read_at=now,
        rejected=int(impossible.sum()),
        notes=tuple(notes),
    )
    if known is None and "known" not in columns:
        rows.attrs["known_assumed"] = 1
    line = table.line[~impossible]
    return tidy(records.select(rows, ~impossible), gauges, now, name, lambda row: f"line {line[row]}")


def _text(data: bytes, name: str) -> str:
    """The decoded content. Raises Refused for damaged compression, other encodings and files beyond MAX_BYTES."""
    if name.endswith(".gz"):
        try:
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise Refused(f"{name}: the compressed data are damaged or end early ({error}); copy it again") from error
    if len(data) > MAX_BYTES:
        raise Refused(f"{name}: is larger than {MAX_BYTES >> 20} MB; split it by year")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Refused(f"{name}, line {line}: is not UTF-8 text; save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace('"', "")


def _table(text: str, name: str) -> Table:
    """The columns, once header and number of fields are right."""
    if text.lstrip()[:1] in ("<", "{"):
        raise Refused(f"{name}: is a web page or JSON, not a CSV table; look at what the provider answered")
    lines = text.split("\n")
    number = np.array([i for i, line in enumerate(lines) if line.strip() and line[0] != "#"], int)
    if not number.size:
        raise Refused(f"{name}: is empty; expected a header with 'time' and at least one of {', '.join(COLUMNS)}")
    header = [column.strip() for column in lines[number[0]].split(",")]
    _check_header(header, name)
    for i in number:
        fields = lines[i].count(",") + 1
        if fields != len(header):
            hint = "; are there decimal commas? write decimal points" if fields > len(header) else "; is it cut off?"
            raise Refused(f"{name}, line {i + 1}: has {fields} fields, the header has {len(header)}{hint}")
    body = "\n".join(lines[i] for i in number[1:])
    if not body:
        return Table(name, pd.DataFrame({column: pd.Series(dtype=str) for column in header}), number[1:] + 1)
    frame = pd.read_csv(io.StringIO(body), header=None, names=header, dtype=str, na_filter=False, quoting=3)
    return Table(name, frame, number[1:] + 1)


def _check_header(header: list[str], name: str) -> None:
    allowed = (*STAMPS, "station", *COLUMNS)
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise Refused(f"{name}: fields are separated by ';' or tabs, expected commas (and decimal points)")
    if "time" not in header:
        raise Refused(f"{name}: no column 'time' (the end of the hour, UTC); the header has {', '.join(header)}")
    for column in header:
        if header.count(column) > 1:
            raise Refused(f"{name}: column {column!r} is there {header.count(column)} times; keep one")
        if column in allowed:
            continue
        if re.search(r"per_day|_daily|/day|mm_d$", column):
            raise Refused(
                f"{name}: column {column!r}: the step is a day, expected hourly values in mm/h; give hourly data"
            )
        base = next((known for known in sorted(COLUMNS, key=len, reverse=True) if column.startswith(known)), None)
        if base:
            unit = "m3/s" if base == "discharge" else "degC" if base == "temperature" else "mm/h"
            raise Refused(
                f"{name}: column {column!r} seems to be {base!r} in a unit of its own; units are never guessed: "
                f"convert it to {unit} and call it {base!r}"
            )
        raise Refused(f"{name}: unknown column {column!r}; allowed are {', '.join(allowed)}: rename or remove it")
    if not set(header) & set(COLUMNS):
        raise Refused(f"{name}: has no values; expected at least one of {', '.join(COLUMNS)}")


def _numbers(table: Table, column: str, notes: list[str]) -> np.ndarray:
    """float64 with NaN for fields that are empty, or hold a word, of which `notes` are told.

    Raises Refused at the first number that is wrongly written, or has a unit: nothing is guessed.
    """
    text = table.text[column].str.strip()
    value = pd.to_numeric(text, errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(~np.isfinite(value))
    wrong = wrong[~text.iloc[wrong].isin(EMPTY).to_numpy()]
    misspelt = wrong[text.iloc[wrong].str.contains(r"\d").to_numpy(bool)]
    if misspelt.size:
        found = f"{text.iloc[misspelt[0]]!r} is not a number"
        raise table.refuse(int(misspelt[0]), column, f"{found}; write digits and a decimal point alone, or nothing")
    if wrong.size:
        count = f", {wrong.size} such fields in all" if wrong.size > 1 else ""
        where = f"{table.name}, line {table.line[wrong[0]]}, column {column!r}"
        notes.append(f"{where}: {text.iloc[wrong[0]]!r} is not a number, left out{count}")
    return np.where(np.isfinite(value), value, np.nan)


def _stamps(table: Table, column: str, timezone: str) -> np.ndarray:
    """datetime64[ns] UTC; NaT for an empty `known` and for local times that are ambiguous or do not exist."""
    text = table.text[column].str.strip()
    empty = (text == "").to_numpy()
    if column == "known":
        text = text.mask(empty, "1970-01-01")
    odd = np.flatnonzero(~text.str.fullmatch(ISO).to_numpy(bool))
    if odd.size:
        found = text.iloc[odd[0]]
        why = "is empty" if not found else f"{found!r} is not an ISO time"
        if re.match(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}", found):
            why = f"{found!r} is ambiguous (day or month first?)"
        raise table.refuse(int(odd[0]), column, f"{why}; write 2003-07-01T06:00 (UTC) or 2003-07-01T08:00+02:00")
    leap = text.str.contains(":60", regex=False).to_numpy(bool)  # a leap second belongs to the minute that follows
    if leap.any():
        text = text.str.replace(":60", ":59", regex=False)
    naive = np.zeros(len(text), bool)
    if timezone != "UTC":
        naive = ~text.str.slice(10).str.fullmatch(ZONED).to_numpy(bool)
    stamp = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    wrong = np.flatnonzero(stamp.isna().to_numpy() | (stamp.dt.year < 1700) | (stamp.dt.year > 2200))
    if wrong.size:
        raise table.refuse(int(wrong[0]), column, f"{text.iloc[wrong[0]]!r} is no possible time; correct it")
    result = stamp.dt.tz_localize(None).to_numpy("datetime64[ns]") + leap * np.timedelta64(1, "s")
    if naive.any():
        local = pd.DatetimeIndex(result[naive]).tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
        result[naive] = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]")
    if column == "known":
        result[empty] = np.datetime64("NaT")
    return result


def _discharge(values: dict, stations: np.ndarray, gauge_of: dict[str, Gauge]) -> dict:
    """The values with `discharge_mm` turned into m³/s where there is no `discharge`."""
    depth = values.pop("discharge_mm", None)
    if depth is not None and "discharge" not in values:
        area = np.array([gauge_of[s].area_km2 if s in gauge_of else np.nan for s in stations])
        values["discharge"] = m3_per_second(depth, area)
    return values
