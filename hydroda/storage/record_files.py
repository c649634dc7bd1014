"""Files of records: everything ever received of a station in a year, merged into what is there.

Below the folder of a domain: `observations/<station>/<YYYY>.nc` by the year of the valid time, `forecasts/…` likewise.
"""

import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.schema import SchemaError, check_records, check_station_id
from hydroda.storage import files, netcdf, records
from hydroda.units import iso, utc_now

log = logging.getLogger(__name__)
FORMAT = "hydroda records 1"
ASIDE = ".damaged-"  # and when it was found so


@dataclass(frozen=True)
class Counts:
    """What became of the records given to `append`; received = new + revised + duplicate + rejected."""

    received: int = 0
    new: int = 0
    revised: int = 0
    duplicate: int = 0
    rejected: int = 0
    late: int = 0  # of the new and revised observations: known later than an hour after their own
    unwritten: int = 0  # files that could not be written: their records are in none of the other numbers
    problems: tuple[str, ...] = ()  # files set aside or not written, rows refused: one sentence each


def append(folder: Path, incoming: xr.Dataset, now: np.datetime64 | None = None) -> Counts:
    """Adds records (see `schema`) to the files of their stations and years; safe to repeat.

    Records from the future of `now` (default: the time they were read, else the clock) are rejected. A file that
    cannot be used is set aside, one that cannot be written is left; both are named in the counts and the others go
    on. Raises OSError when the disk is full.
    """
    if now is None:
        now = incoming.attrs.get("read_at", utc_now())
    problems = list(incoming.attrs.get("notes", ()))
    future = records.in_the_future(incoming, now)
    if future.any():
        first = incoming["time"].values[future][0]
        problems.append(f"{int(future.sum())} records are later than {iso(now)} and rejected, such as {iso(first)}")
    rejected = int(incoming.attrs.get("rejected", 0))
    tally = {records.NEW: 0, records.REVISED: 0, records.DUPLICATE: 0}
    late = unwritten = 0
    for path, part in _parts(folder, records.select(incoming, ~future)):
        try:
            verdict = _append_file(path, part, problems)
        except OSError as error:
            if error.errno in files.FULL:
                raise
            problems.append(f"{path}: not written ({error.strerror or error}); check the permissions")
            log.error(problems[-1])
            unwritten += 1
            continue
        for word in tally:
            tally[word] += int((verdict == word).sum())
        waited = part["known"].values - part["time"].values > records.LATE
        late += int((waited & (verdict != records.DUPLICATE)).sum())
    return Counts(
        received=incoming.sizes["record"] + rejected,
        new=tally[records.NEW],
        revised=tally[records.REVISED],
        duplicate=tally[records.DUPLICATE],
        rejected=rejected + int(future.sum()),
        late=late if incoming.attrs["kind"] == "observations" else 0,
        unwritten=unwritten,
        problems=tuple(problems),
    )


def select(folder: Path, kind: str, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
    """The records of a kind ("observations", "forecasts") valid from `start` to `end`; what cannot be read is noted."""
    years = range(_year(start), _year(end) + 1)
    parts, notes = [], []
    for station in sorted(set(stations)):
        for year in years:
            path = _path(folder, kind, station, year)
            try:
                part = _read(path)
            except FileNotFoundError:
                continue
            except netcdf.DamagedFile as damage:
                notes.append(str(damage))
                log.error("%s; its records are left out", damage)
                continue
            time = part["time"].values
            parts.append(records.select(part, (time >= start) & (time <= end)))
    joined = records.join(parts, kind)
    joined.attrs["notes"] = tuple(notes)
    return joined


def newest(folder: Path, station: str, variable: str) -> np.datetime64 | None:
    """The last hour with a value of a variable at a station, None where there is none."""
    own = folder / "observations" / check_station_id(station)
    for path in sorted(own.glob("[0-9][0-9][0-9][0-9].nc"), reverse=True):
        try:
            found = _read(path)
        except netcdf.DamagedFile:
            continue
        if variable in found and np.isfinite(found[variable].values).any():
            return found["time"].values[np.isfinite(found[variable].values)].max()
    return None


def damage(folder: Path, station: str) -> list[str]:
    """What is wrong with the files of a station: those that cannot be read, and those that were set aside for that."""
    found = []
    for kind in records.KINDS:
        for path in sorted((folder / kind / check_station_id(station)).glob("[0-9][0-9][0-9][0-9].nc*")):
            if path.suffix == ".nc":
                try:
                    _read(path)
                except netcdf.DamagedFile as damaged:
                    found.append(str(damaged))
            elif ASIDE in path.suffix and path.suffix != ".sha256":
                found.append(f"{path} was damaged and set aside: what it held is missing")
    return found


def _path(folder: Path, kind: str, station: str, year: int) -> Path:
    return folder / kind / check_station_id(station) / f"{year:04d}.nc"


def _parts(folder: Path, incoming: xr.Dataset) -> list[tuple[Path, xr.Dataset]]:
    """The records of each file."""
    years = incoming["time"].values.astype("datetime64[Y]").astype(int) + 1970
    stations, place = np.unique(incoming["station"].values, return_inverse=True)
    parts = []
    for i, station in enumerate(stations):
        for year in np.unique(years[place == i]):
            part = records.select(incoming, (place == i) & (years == year))
            parts.append((_path(folder, incoming.attrs["kind"], str(station), int(year)), part))
    return parts


def _append_file(path: Path, part: xr.Dataset, problems: list[str]) -> np.ndarray:
    """Merges into one file and rewrites it if that changed it; the verdict on each record."""
    stored = records.empty(part.attrs["kind"])
    try:
        stored = _read(path)
    except FileNotFoundError:
        pass
    except netcdf.DamagedFile as damage:
        problems.append(f"{damage}; set aside as {_set_aside(path).name}, the source must be read again")
        log.error(problems[-1])
    merged, verdict = records.merge(stored, part)
    assumed = stored.attrs.get("known_assumed", 0) or part.attrs.get("known_assumed", 0)
    if merged.sizes["record"] and not merged.equals(stored):
        merged.attrs |= {"format": FORMAT, "station": str(part["station"].values[0])}
        merged.attrs |= {"known_assumed": np.int32(assumed)}
        netcdf.write(merged.drop_vars("station"), path, record_dim=None)
    return verdict


def _read(path: Path) -> xr.Dataset:
    """The records in one file. Raises FileNotFoundError, netcdf.DamagedFile."""
    content = netcdf.read(path)
    if content.attrs.get("format") != FORMAT or content.attrs.get("station") != path.parent.name:
        raise netcdf.DamagedFile(path, f"is not {FORMAT!r} of station {path.parent.name!r}")
    station = np.full(content.sizes["record"], content.attrs["station"])
    try:
        return check_records(content.assign_coords(station=("record", station)))
    except SchemaError as error:
        raise netcdf.DamagedFile(path, str(error)) from error


def _set_aside(path: Path) -> Path:
    """Renames a file that cannot be used, and its checksum, to a name no reader looks at."""
    stamp = re.sub(r"\W", "", iso(utc_now()))
    target = path.with_name(f"{path.name}{ASIDE}{stamp}")
    while target.exists():
        target = target.with_name(f"{target.name}x")
    path.rename(target)
    with contextlib.suppress(FileNotFoundError):
        netcdf.sidecar_path(path).rename(netcdf.sidecar_path(target))
    return target


def _year(time: np.datetime64) -> int:
    return time.astype("datetime64[Y]").astype(int) + 1970
