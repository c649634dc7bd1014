"""Files that do not change any more, read as often as somebody asks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda.sources.intake import Refused
from hydroda.storage import records


def load(
    path: Path,
    suffixes: tuple[str, ...],
    start: np.datetime64,
    end: np.datetime64,
    reader: Callable[[Path], xr.Dataset],
) -> xr.Dataset:
    """The records valid from `start` to `end` in one file, or in all files of a folder with one of these suffixes.

    Raises FileNotFoundError, and Refused where observations and weather forecasts come together.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.name.endswith(suffixes) and not p.name.startswith("."))
        if not paths:
            raise FileNotFoundError(f"{path}: no {' or '.join(suffixes)} file in this folder")
    parts = []
    for one in paths:
        part = reader(one)
        time = part["time"].values
        parts.append(records.select(part, (time >= start) & (time <= end)))
    kinds = {part.attrs["kind"] for part in parts}
    if len(kinds) > 1:
        raise Refused(f"{path}: observations and weather forecasts together; put them into two folders, two sources")
    return records.join(parts, kinds.pop())


def delay(hours: float | None) -> np.timedelta64 | None:
    """The time from the start of a weather run to its publication, from the option `delay_hours`."""
    return None if hours is None else np.timedelta64(round(hours * 3600), "s")
