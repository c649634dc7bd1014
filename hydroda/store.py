"""What is kept, and under which name: the only file that knows names.

Below `<root>/<domain>`:

observations/<station>/<YYYY>.nc      everything ever received, by year of the valid time
forecasts/<station>/<YYYY>.nc         the same for weather forecasts
parameters/<station>.json
parameters/<station>.safetensors   weights of networks
<kind>/<YYYY>/<MM>/<DD>/hydroda_<domain>_<kind>_<YYYYMMDD>T<HHMM>Z.nc         products and beliefs
hindcast/<forcing>/hydroda_<domain>_hindcast-<forcing>_<YYYYMM>.nc
latest.<suffix>, .<name>.lock
"""

import contextlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hydroda import files, lock, netcdf, records
from hydroda.schema import SchemaError, check_records, check_station_id
from hydroda.units import iso, utc_now

log = logging.getLogger(__name__)
KIND = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
DAY = np.timedelta64(1, "D")
KEEP_HOURLY, KEEP_DAILY = 7 * DAY, 60 * DAY
WRITER_WAIT = 60.0  # s an append waits for another one; sources may be read side by side
STALE_SECONDS = 3600.0
FORMAT = "hydroda records 1"


@dataclass(frozen=True)
class Counts:
    """What became of the records given to `append`; received = new + revised + duplicate + rejected."""

    received: int = 0
    new: int = 0
    revised: int = 0
    duplicate: int = 0
    rejected: int = 0
    late: int = 0  # of the new and revised observations: known later than an hour after their own
    problems: tuple[str, ...] = ()  # files set aside or not written, rows refused: one sentence each


@dataclass(frozen=True)
class Store:
    """The files of one domain below `root`."""

    root: Path
    domain: str

    @property
    def folder(self) -> Path:
        """Everything of this domain."""
        return self.root / check_station_id(self.domain)

    # names

    def product_path(self, kind: str, cycle: np.datetime64, suffix: str = ".nc") -> Path:
        """The file of one kind ("fc", "ens", "an", "belief", "fc-hindcast" …) and cycle; "an" has one per day."""
        form = "%Y%m%d" if _kind(kind).split("-")[0] == "an" else "%Y%m%dT%H%MZ"
        moment = cycle.astype("datetime64[s]").item()
        name = f"hydroda_{self.domain}_{kind}_{moment.strftime(form)}{suffix}"
        return self.folder / kind / moment.strftime("%Y/%m/%d") / name

    def belief_path(self, cycle: np.datetime64, kind: str = "belief") -> Path:
        """The belief saved for `cycle`."""
        return self.product_path(kind, cycle)

    def latest_path(self, suffix: str = ".json") -> Path:
        """The pointer to the newest cycle."""
        return self.folder / f"latest{suffix}"

    def archive_path(self, forcing: str, month: np.datetime64) -> Path:
        """The hindcasts of one month with one kind of forcing."""
        stamp = str(month.astype("datetime64[M]")).replace("-", "")
        name = f"hydroda_{self.domain}_hindcast-{_kind(forcing)}_{stamp}.nc"
        return self.folder / "hindcast" / forcing / name

    def parameters_path(self, station: str) -> Path:
        """The parameters, limits and error levels of one catchment."""
        return self.folder / "parameters" / f"{check_station_id(station)}.json"

    def cycles(self, kind: str, until: np.datetime64 | None = None) -> list[np.datetime64]:
        """Cycles (not later than `until`) with a complete file of this kind, newest first.

        Complete is a file with its checksum beside it; whether they agree is found out on reading.
        """
        found = []
        pattern = f"hydroda_{self.domain}_{_kind(kind)}_*Z.nc.sha256"
        for sidecar in (self.folder / kind).glob(f"*/*/*/{pattern}"):
            stamp = re.fullmatch(r".*_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)Z\.nc\.sha256", sidecar.name)
            if stamp and sidecar.with_suffix("").exists():
                year, month, day, hour, minute = stamp.groups()
                found.append(np.datetime64(f"{year}-{month}-{day}T{hour}:{minute}", "ns"))
        return sorted((cycle for cycle in found if until is None or cycle <= until), reverse=True)

    # writers

    def lock(self, name: str, wait: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """The lock of one activity, held for a `with` block. Raises lock.Busy after `wait` seconds."""
        return lock.hold(self.folder / f".{_kind(name)}.lock", wait)

    def weights_path(self, station: str) -> Path:
        """The weights of the networks that were trained for one catchment."""
        return self.parameters_path(station).with_suffix(".safetensors")

    def write_parameters(self, station: str, parameters: Mapping[str, Any]) -> Path:
        """Keeps the parameters of one catchment; NaN and infinity are refused (ValueError)."""
        path = self.parameters_path(station)
        text = json.dumps(dict(parameters), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        files.replace(path, f"{text}\n".encode())
        return path

    def read_parameters(self, station: str) -> dict[str, Any] | None:
        """The parameters of one catchment, None where there are none. Raises netcdf.DamagedFile."""
        path = self.parameters_path(station)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise netcdf.DamagedFile(path, f"is not JSON ({error}); restore it or calibrate again") from error
        if not isinstance(content, dict):
            raise netcdf.DamagedFile(path, f"holds a {type(content).__name__}, expected an object of names and values")
        return content

    # records

    def append(self, incoming: xr.Dataset, now: np.datetime64 | None = None) -> Counts:
        """Adds records (see `schema`) to the files of their stations and years; safe to repeat.

        Records from the future of `now` (default: the time they were read, else the clock) are rejected. A file that
        cannot be used is set aside, one that cannot be written is left; both are named in the counts and the others go
        on. Raises SchemaError, lock.Busy, and OSError when the disk is full.
        """
        check_records(incoming)
        if now is None:
            now = incoming.attrs.get("read_at", utc_now())
        problems = list(incoming.attrs.get("notes", ()))
        future = records.in_the_future(incoming, now)
        if future.any():
            first = incoming["time"].values[future][0]
            problems.append(f"{int(future.sum())} records are later than {iso(now)} and rejected, such as {iso(first)}")
        rejected = int(incoming.attrs.get("rejected", 0))
        tally = {records.NEW: 0, records.REVISED: 0, records.DUPLICATE: 0}
        late = 0
        with self.lock("records", WRITER_WAIT):
            for path, part in self._parts(records.select(incoming, ~future)):
                try:
                    verdict = self._append_file(path, part, problems)
                except OSError as error:
                    if error.errno in files.FULL:
                        raise
                    problems.append(f"{path}: not written ({error.strerror or error}); check the permissions")
                    log.error(problems[-1])
                    continue
                for word in tally:
                    tally[word] += int((verdict == word).sum())
                waited = part["known"].values - part["time"].values > records.LATE
                late += int((waited & (verdict != records.DUPLICATE)).sum())
        return Counts(
            incoming.sizes["record"] + rejected,
            tally[records.NEW],
            tally[records.REVISED],
            tally[records.DUPLICATE],
            rejected + int(future.sum()),
            late if incoming.attrs["kind"] == "observations" else 0,
            tuple(problems),
        )

    def observations(self, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
        """All versions of all observations valid from `start` to `end`, sorted by station, hour and known time."""
        return self._select("observations", stations, start, end)

    def forecasts(self, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
        """All weather forecasts valid from `start` to `end`, sorted by station, hour, run and known time."""
        return self._select("forecasts", stations, start, end)

    def newest(self, station: str, variable: str = "discharge") -> np.datetime64 | None:
        """The last hour with a value of a variable at a station, None where there is none."""
        folder = self.folder / "observations" / check_station_id(station)
        for path in sorted(folder.glob("[0-9][0-9][0-9][0-9].nc"), reverse=True):
            try:
                records = _read(path)
            except netcdf.DamagedFile:
                continue
            if variable in records and np.isfinite(records[variable].values).any():
                return records["time"].values[np.isfinite(records[variable].values)].max()
        return None

    def _path(self, kind: str, station: str, year: int) -> Path:
        return self.folder / kind / check_station_id(station) / f"{year:04d}.nc"

    def _parts(self, incoming: xr.Dataset) -> list[tuple[Path, xr.Dataset]]:
        """The records of each file."""
        years = incoming["time"].values.astype("datetime64[Y]").astype(int) + 1970
        stations, place = np.unique(incoming["station"].values, return_inverse=True)
        parts = []
        for i, station in enumerate(stations):
            for year in np.unique(years[place == i]):
                part = records.select(incoming, (place == i) & (years == year))
                parts.append((self._path(incoming.attrs["kind"], str(station), int(year)), part))
        return parts

    def _append_file(self, path: Path, part: xr.Dataset, problems: list[str]) -> np.ndarray:
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

    def _select(self, kind: str, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
        years = range(_year(start), _year(end) + 1)
        parts, notes = [], []
        for station in sorted(set(stations)):
            for year in years:
                path = self._path(kind, station, year)
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

    # housekeeping

    def remove_stale_temporaries(self, older_than: float = STALE_SECONDS) -> list[Path]:
        """Removes what killed writers left behind; only what is older than `older_than` seconds."""
        limit = time.time() - older_than
        removed = []
        for path in self.folder.rglob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed.append(path)
        return removed

    def retention(self, now: np.datetime64, dry_run: bool = False, kind: str = "belief") -> list[Path]:
        """Removes old beliefs and returns their paths: all of 7 days stay, one a day of 60 days, one a month for good.

        The newest stays whatever its age. With `dry_run` nothing is removed.
        """
        cycles = self.cycles(kind)
        keep = set(cycles[:1]) | {cycle for cycle in cycles if now - cycle <= KEEP_HOURLY}
        first_of_day = {cycle.astype("datetime64[D]"): cycle for cycle in cycles}  # newest first: the earliest stays
        first_of_month = {cycle.astype("datetime64[M]"): cycle for cycle in cycles}
        keep |= {cycle for cycle in first_of_day.values() if now - cycle <= KEEP_DAILY}
        keep |= set(first_of_month.values())
        removed = [self.product_path(kind, cycle) for cycle in cycles if cycle not in keep]
        if not dry_run:
            for path in removed:
                netcdf.sidecar_path(path).unlink(missing_ok=True)  # first: without it the file no longer counts
                path.unlink(missing_ok=True)
        return removed


def _year(time: np.datetime64) -> int:
    return time.astype("datetime64[Y]").astype(int) + 1970


def _kind(text: str) -> str:
    """The text itself, if it may become part of a file name. Raises ValueError."""
    if not KIND.match(text):
        raise ValueError(f"{text!r} cannot be part of a file name: a-z, 0-9 and '-', starting with a letter")
    return text


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
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    while target.exists():
        target = target.with_name(f"{target.name}x")
    path.rename(target)
    with contextlib.suppress(FileNotFoundError):
        netcdf.sidecar_path(path).rename(netcdf.sidecar_path(target))
    return target
