"""History from CSV files that do not change any more: years of observations, an archive of weather forecasts.

Layout of a file: see `csv_table`. Where a row does not say when it became known, it is taken to have been known at once
(attribute `known_assumed`): a hindcast over such data never waits for a gauge. Forecasts need a column `known` or the
option `delay_hours`, for a forecast that is known before it was made flatters every score.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.sources import csv_table, history
from hydroda.sources.drop_folder import reading_time, station_of
from hydroda.storage.records import Gauge


def read(
    start: np.datetime64,
    end: np.datetime64,
    catchments: Sequence[Gauge],
    *,
    path: Path,
    station: str | None = None,
    delay_hours: float | None = None,
    timezone: str = "UTC",
    now: np.datetime64 | None = None,
) -> xr.Dataset:
    """The records valid from `start` to `end` in one file, or in all `.csv` and `.csv.gz` files of a folder.

    `station` names the station of a file that says it neither in its name nor in a column. Raises intake.Refused,
    FileNotFoundError.
    """
    moment, delay = reading_time(now), history.delay(delay_hours)

    def reader(one: Path) -> xr.Dataset:
        given = station or station_of(one.name, catchments)
        data = one.read_bytes()
        return csv_table.parse(data, one.name, catchments, moment, station=given, delay=delay, timezone=timezone)

    return history.load(path, (".csv", ".csv.gz"), start, end, reader)
