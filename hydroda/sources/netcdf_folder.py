"""A drop folder of NetCDF files in one of the forms of `netcdf_table`. How files come and go: see `drop_folder`.

Values without `known` became known when their file came. Observations and weather forecasts may lie in one folder: a
source reads one `content`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.sources import drop_folder, netcdf_table
from hydroda.storage.records import Gauge


def read(
    start: np.datetime64,
    end: np.datetime64,
    catchments: Sequence[Gauge],
    *,
    folder: Path,
    content: str = "observations",
    now: np.datetime64 | None = None,
) -> xr.Dataset:
    """All records in files that changed since they were taken, also those outside `start` … `end`: they would not be
    offered again.

    Call `drop_folder.taken` with the result when it is stored. Files that cannot be used are noted, not raised.
    """
    moment = drop_folder.reading_time(now)

    def reader(path: Path, _: bytes, came: np.datetime64) -> xr.Dataset:
        return netcdf_table.load(path, catchments, moment, known=came)

    return drop_folder.read_new(folder, (".nc",), content, catchments, reader, moment, whole_lines=False)
