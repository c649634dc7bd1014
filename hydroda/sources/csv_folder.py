"""A drop folder of CSV files that appear, grow and are revised: telemetry exports, a logger, a colleague with a sheet.

Layout of a file: see `csv_table`. Its name begins with the station id (`<id>.csv`, `<id>_….csv`, also `.gz`), or it has
a column `station`. A row without `known` became known when its file came. Files of weather forecasts (with a column
`reference_time`) may lie in the same folder: a source reads one `content`. How files come and go: see `drop_folder`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.sources import csv_table, drop_folder
from hydroda.storage.records import Gauge


def read(
    start: np.datetime64,
    end: np.datetime64,
    catchments: Sequence[Gauge],
    *,
    folder: Path,
    content: str = "observations",
    timezone: str = "UTC",
    now: np.datetime64 | None = None,
) -> xr.Dataset:
    """All records in files that changed since they were taken, also those outside `start` … `end`: they would not be
    offered again. `timezone` is that of stamps without one.

    Call `drop_folder.taken` with the result when it is stored. Files that cannot be used are noted, not raised.
    """
    moment = drop_folder.reading_time(now)

    def reader(path: Path, data: bytes, came: np.datetime64) -> xr.Dataset:
        return csv_table.parse(
            data,
            path.name,
            catchments,
            moment,
            station=drop_folder.station_of(path.name, catchments),
            known=came,
            timezone=timezone,
        )

    return drop_folder.read_new(folder, (".csv", ".csv.gz"), content, catchments, reader, moment, whole_lines=True)
