"""Records as sets of facts: build them, join them, merge what arrives into what is there. No files, no clock.

An *event* is one value of one variable for one hour (and weather run), with the time it became known. What is stored is
a set of events, so the order in which they arrive does not matter. Values whose `known` is only the time of reading
(attribute `read_at`) are the exception that keeps the set small: said again and unchanged, they are no news.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import xarray as xr

from hydroda.schema import VARIABLES
from hydroda.units import HOUR

FUTURE_TOLERANCE = np.timedelta64(5, "m")  # how far the clock of a provider may be ahead of ours
LATE = HOUR  # an observation known later than this after its hour missed the cycle of that hour
KINDS = ("observations", "forecasts")  # of records: by gauges, and by weather models
NEW, REVISED, DUPLICATE = "new", "revised", "duplicate"
ALWAYS = np.datetime64("1678-01-01", "ns")
NAMES = tuple(VARIABLES)
EVENT = np.dtype(
    [
        ("variable", "i8"),
        ("time", "M8[ns]"),
        ("reference", "M8[ns]"),
        ("known", "M8[ns]"),
        ("value", "f8"),
        ("row", "i8"),
        ("fresh", "?"),
    ]
)
KEY = ("variable", "time", "reference")


class Gauge(Protocol):
    """What a source needs to know of a catchment."""

    @property
    def id(self) -> str: ...
    @property
    def area_km2(self) -> float: ...


def build(
    station: Sequence[str] | np.ndarray,
    time: np.ndarray,
    known: np.ndarray,
    values: Mapping[str, np.ndarray],
    reference_time: np.ndarray | None = None,
    **attrs: object,
) -> xr.Dataset:
    """Records from columns of equal length (n,); with `reference_time` they are weather forecasts.

    Attributes a source may give: `read_at` (its reading time), `arrived` (when the first of it came, if before that;
    what became known then or later, said again and unchanged, is no news), `known_assumed` = 1 (the known times are the
    valid times because nothing better is known), `rejected` (rows refused), `notes` (sentences for the log).
    """
    stamps = {"time": time, "known": known} | ({} if reference_time is None else {"reference_time": reference_time})
    data: dict = {"station": ("record", np.asarray(station, dtype=str))}
    data |= {name: ("record", np.asarray(stamp, "datetime64[ns]")) for name, stamp in stamps.items()}
    data |= {
        name: ("record", np.asarray(value, float), {"units": VARIABLES[name].units}) for name, value in values.items()
    }
    kind = "observations" if reference_time is None else "forecasts"
    return xr.Dataset(data, attrs={"kind": kind, **attrs}).set_coords(["station", *stamps])


def empty(kind: str, **attrs: object) -> xr.Dataset:
    """No records of a kind ("observations" or "forecasts")."""
    none = np.empty(0, "datetime64[ns]")
    values = {name: np.empty(0) for name in NAMES}
    return build(np.empty(0, str), none, none, values, none if kind == "forecasts" else None, **attrs)


def select(records: xr.Dataset, keep: np.ndarray) -> xr.Dataset:
    """The records where `keep` (n,) is true (or at these positions)."""
    return records.isel(record=np.flatnonzero(keep) if keep.dtype == bool else keep)


def join(parts: Sequence[xr.Dataset], kind: str) -> xr.Dataset:
    """All records of `parts` in their order; rejections add up, notes follow each other, assumptions stick."""
    size = sum(part.sizes["record"] for part in parts)
    if not parts:
        return empty(kind)
    columns = {name: np.full(size, np.nan) for name in NAMES if any(name in part for part in parts)}
    at = 0
    for part in parts:
        until = at + part.sizes["record"]
        for name, column in columns.items():
            if name in part:
                column[at:until] = part[name].values
        at = until

    def stamps(name: str) -> np.ndarray:
        return np.concatenate([part[name].values for part in parts])

    reference = stamps("reference_time") if kind == "forecasts" else None
    attrs: dict = {}
    if any("read_at" in part.attrs for part in parts):
        attrs["read_at"] = max(part.attrs["read_at"] for part in parts if "read_at" in part.attrs)
    if any("arrived" in part.attrs for part in parts):
        attrs["arrived"] = min(part.attrs["arrived"] for part in parts if "arrived" in part.attrs)
    if any(part.attrs.get("known_assumed") for part in parts):
        attrs["known_assumed"] = 1
    rejected = sum(part.attrs.get("rejected", 0) for part in parts)
    notes = tuple(note for part in parts for note in part.attrs.get("notes", ()))
    return build(
        stamps("station"), stamps("time"), stamps("known"), columns, reference, rejected=rejected, notes=notes, **attrs
    )


def in_the_future(records: xr.Dataset, now: np.datetime64) -> np.ndarray:
    """Which records (n,) claim to be known, or measured, or issued, later than `now` and a small tolerance."""
    limit = now + FUTURE_TOLERANCE
    origin = records["reference_time"] if records.attrs["kind"] == "forecasts" else records["time"]
    return (records["known"].values > limit) | (origin.values > limit)


def repeats(*columns: np.ndarray) -> np.ndarray:
    """Where all of the sorted columns repeat the row before."""
    same = np.ones(len(columns[0]), bool)
    same[:1] = False
    for column in columns:
        same[1:] &= column[1:] == column[:-1]
    return same


def _table(records: xr.Dataset) -> np.ndarray:
    """The events of the records of one station as rows of a structured array, in their order."""
    parts = []
    names = [name for name in NAMES if name in records]
    for name in names:
        value = records[name].values
        row = np.flatnonzero(np.isfinite(value))
        events = np.empty(row.size, EVENT)
        events["variable"], events["row"], events["value"] = NAMES.index(name), row, value[row]
        for stamp in ("time", "known", "reference"):
            source = "reference_time" if stamp == "reference" else stamp
            events[stamp] = records[source].values[row].astype("M8[ns]") if source in records.variables else ALWAYS
        parts.append(events)
    return np.concatenate(parts) if parts else np.empty(0, EVENT)


def _sorted(events: np.ndarray) -> np.ndarray:
    """By variable, hour, run and known time; where these agree, the stored before the fresh, in the order given."""
    return events[np.lexsort([events[name] for name in ("fresh", "known", *reversed(KEY))])]


def merge(stored: xr.Dataset, incoming: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    """The records of one station with `incoming` added, and for each incoming record NEW, REVISED or DUPLICATE (n,).

    The result does not depend on the order of arrival of records that state when they became known. A second value for
    the same known time is taken as known when it was read; so is an assumed known time where there is a value already.
    """
    read_at = np.datetime64(incoming.attrs.get("read_at", ALWAYS), "ns")
    old, fresh = _table(stored), _table(incoming)
    old["fresh"], fresh["fresh"] = False, True
    fresh = _sorted(fresh)
    fresh = fresh[~np.roll(repeats(*(fresh[name] for name in (*KEY, "known"))), -1)]  # the later row counts
    events = _sorted(np.concatenate([old, fresh]))
    again = repeats(*(events[name] for name in KEY))
    clash = again & repeats(events["known"])
    repeated = clash & repeats(events["value"])
    restamp = clash & ~repeated
    if incoming.attrs.get("known_assumed"):
        occupied = _group_has_old(events)
        restamp, repeated = events["fresh"] & occupied, np.zeros_like(repeated)
    events["known"][restamp] = np.maximum(read_at, events["known"][restamp] + np.timedelta64(1, "s"))
    events = _sorted(events[~repeated])
    replaced = np.roll(repeats(*(events[name] for name in (*KEY, "known"))), -1)
    events = events[~replaced]
    again = repeats(*(events[name] for name in KEY))
    unchanged = again & repeats(events["value"])
    dropped = events["fresh"] & unchanged & (events["known"] >= incoming.attrs.get("arrived", read_at))
    verdict = np.full(incoming.sizes["record"], DUPLICATE, dtype="U9")
    news = events["fresh"] & ~unchanged
    first = news & ~again & ~_group_has_old(events)
    verdict[events["row"][news]] = REVISED
    verdict[events["row"][first]] = NEW
    return _from_events(events[~dropped], incoming), verdict


def _group_has_old(events: np.ndarray) -> np.ndarray:
    """For each sorted event, whether its hour (and run) had a value of that variable before."""
    group = np.cumsum(~repeats(*(events[name] for name in KEY))) - 1
    return (np.bincount(group, ~events["fresh"]) > 0)[group] if events.size else np.zeros(0, bool)


def _from_events(events: np.ndarray, like: xr.Dataset) -> xr.Dataset:
    """Records of the station of `like` from sorted events, one row per hour, run and known time."""
    order = np.lexsort([events[name] for name in ("variable", "known", "reference", "time")])
    events = events[order]
    row = np.cumsum(~repeats(*(events[name] for name in ("time", "reference", "known")))) - 1
    first = np.flatnonzero(np.diff(row, prepend=-1))
    values = {}
    for code in np.unique(events["variable"]):
        mine = events["variable"] == code
        values[NAMES[code]] = np.full(first.size, np.nan)
        values[NAMES[code]][row[mine]] = events["value"][mine]
    reference = events["reference"][first] if like.attrs["kind"] == "forecasts" else None
    station = np.full(first.size, str(like["station"].values[0]))
    return build(station, events["time"][first], events["known"][first], values, reference)
