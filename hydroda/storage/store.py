"""What is kept, and under which name; of observations and weather forecasts `record_files` knows it.

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

from hydroda.schema import check_records, check_station_id
from hydroda.storage import files, lock, netcdf, record_files
from hydroda.storage.record_files import Counts

log = logging.getLogger(__name__)
KIND = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
DAY = np.timedelta64(1, "D")
KEEP_HOURLY, KEEP_DAILY = 7 * DAY, 60 * DAY
WRITER_WAIT = 60.0  # s an append waits for another one; sources may be read side by side
STALE_SECONDS = 3600.0


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

    def damage(self, station: str) -> list[str]:
        """What is wrong with the files of observations and weather forecasts of a station, in words."""
        return record_files.damage(self.folder, station)

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
        """Adds records (see `schema`) to the files of their stations and years, as `record_files.append` says; safe to
        repeat. Raises SchemaError, lock.Busy, and OSError when the disk is full."""
        check_records(incoming)
        with self.lock("records", WRITER_WAIT):
            return record_files.append(self.folder, incoming, now)

    def observations(self, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
        """All versions of all observations valid from `start` to `end`, sorted by station, hour and known time."""
        return record_files.select(self.folder, "observations", stations, start, end)

    def forecasts(self, stations: Sequence[str], start: np.datetime64, end: np.datetime64) -> xr.Dataset:
        """All weather forecasts valid from `start` to `end`, sorted by station, hour, run and known time."""
        return record_files.select(self.folder, "forecasts", stations, start, end)

    def newest(self, station: str, variable: str = "discharge") -> np.datetime64 | None:
        """The last hour with a value of a variable at a station, None where there is none."""
        return record_files.newest(self.folder, station, variable)

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


def _kind(text: str) -> str:
    """The text itself, if it may become part of a file name. Raises ValueError."""
    if not KIND.match(text):
        raise ValueError(f"{text!r} cannot be part of a file name: a-z, 0-9 and '-', starting with a letter")
    return text
