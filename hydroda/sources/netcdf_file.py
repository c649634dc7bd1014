"""History from NetCDF files that do not change any more, in one of the forms of `netcdf_table`.

Values without `known` are taken to have been known at once (attribute `known_assumed`); forecasts need `known` or the
option `delay_hours`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.sources import history, netcdf_table
from hydroda.sources.drop_folder import reading_time
from hydroda.storage.records import Gauge


def read(
    start: np.datetime64,
    end: np.datetime64,
    catchments: Sequence[Gauge],
    *,
    path: Path,
    delay_hours: float | None = None,
    now: np.datetime64 | None = None,
) -> xr.Dataset:
    """The records valid from `start` to `end` in one file, or in all `.nc` files of a folder.

    Raises intake.Refused, FileNotFoundError.
    """
    moment, delay = reading_time(now), history.delay(delay_hours)
    return history.load(path, (".nc",), start, end, lambda one: netcdf_table.load(one, catchments, moment, delay=delay))
