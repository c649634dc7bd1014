"""What every file-like source does with rows it has read: keep our stations, check the hours, refuse the future."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from hydroda.storage import records
from hydroda.storage.records import Gauge
from hydroda.units import HOUR, iso

MIN_STEPS = 5  # steps needed before a step other than one hour is called the step of a series


class Refused(ValueError):
    """A file that cannot be used as it is; the message says where, what, and what to do."""


def tidy(
    rows: xr.Dataset, gauges: Sequence[Gauge], now: np.datetime64, name: str, where: Callable[[int], str]
) -> xr.Dataset:
    """The rows of stations in `gauges` that say something and are not from the future of `now`.

    Messages name the file, `name`, and the row, `where(i)`. What is left out is counted (`rejected`) or noted
    (`notes`). Raises Refused for a time that is not a full hour and for a step other than one hour.
    """
    notes: list[str] = []
    station = rows["station"].values
    ours = np.isin(station, [gauge.id for gauge in gauges])
    if not ours.all():
        others = ", ".join(sorted(set(station[~ours].tolist()))[:5])
        notes.append(f"{name}: {int((~ours).sum())} rows of stations that are not in the settings left out: {others}")
    said = np.zeros(station.size, bool)
    for variable in rows.data_vars:
        said |= np.isfinite(rows[variable].values)
    kept = np.flatnonzero(ours & said)
    rows = records.select(rows, kept)
    _check_hours(rows, lambda i: f"{name}, {where(int(kept[i]))}")
    _check_step(rows, name)
    future = records.in_the_future(rows, now)
    if future.any():
        first = int(np.flatnonzero(future)[0])
        notes.append(
            f"{name}: {int(future.sum())} rows lie after {iso(now)} and were rejected, the first at "
            f"{where(int(kept[first]))} ({iso(rows['time'].values[first])}); is the clock or the time zone of the "
            "provider wrong?"
        )
    repeated = _repeated(rows)
    if repeated:
        notes.append(f"{name}: {repeated} hours are there more than once with other values; the later row counts")
    rejected = int(future.sum()) + int(rows.attrs.get("rejected", 0))
    notes = [*rows.attrs.get("notes", ()), *notes]
    return records.select(rows, ~future).assign_attrs(rejected=rejected, notes=tuple(notes))


def assumed_known(
    time: np.ndarray,
    reference: np.ndarray | None,
    known: np.datetime64 | None,
    delay: np.timedelta64 | None,
    name: str,
) -> np.ndarray:
    """When rows that do not say so became known (n,): at `known` but not before their hour, or the start of a forecast;
    without it at their hour, a forecast at its start + delay.

    Raises Refused for a forecast without either: one that is known before it was made flatters every score.
    """
    if known is not None:
        return np.maximum(known, time if reference is None else reference)  # nothing is known before it is measured
    if reference is None:
        return time
    if delay is None:
        raise Refused(
            f"{name}: when were these weather forecasts published? say so in 'known' for each of them, or give the "
            "source the option delay_hours (hours from reference_time to publication)"
        )
    return reference + delay


def _check_hours(rows: xr.Dataset, where: Callable[[int], str]) -> None:
    for name in ("time", "reference_time"):
        if name not in rows.variables:
            continue
        stamps = rows[name].values
        off = np.flatnonzero(stamps != stamps.astype("datetime64[h]"))
        if off.size:
            raise Refused(
                f"{where(int(off[0]))}: {name} {np.datetime_as_string(stamps[off[0]], 's')} is not a full hour; values "
                "are hourly and stamped at the end of their hour: average (or sum) finer ones to the hour first"
            )


def _check_step(rows: xr.Dataset, name: str) -> None:
    reference = rows["reference_time"].values if "reference_time" in rows.variables else rows["time"].values
    group = reference if "reference_time" in rows.variables else np.zeros(rows.sizes["record"], "i8")
    for station in np.unique(rows["station"].values):
        mine = rows["station"].values == station
        order = np.lexsort([rows["time"].values[mine], group[mine]])
        same = np.diff(group[mine][order].astype("i8")) == 0
        steps = np.diff(rows["time"].values[mine][order])[same]
        lengths, counts = np.unique(steps[steps > np.timedelta64(0)] // HOUR, return_counts=True)
        if counts.sum() >= MIN_STEPS and lengths[counts.argmax()] != 1 and counts.max() > 0.5 * counts.sum():
            step = int(lengths[counts.argmax()])
            raise Refused(
                f"{name}: station '{station}': the step is {'a day' if step == 24 else f'{step} h'}, expected 1 h; "
                "hourly values cannot be made from these without inventing something: give hourly data"
            )


def _repeated(rows: xr.Dataset) -> int:
    """How many rows repeat station, hours and known time of an earlier row with another value."""
    keys = [rows[name].values for name in rows.coords]
    order = np.lexsort(keys)
    same = records.repeats(*(key[order] for key in keys))
    differs = np.zeros(order.size, bool)
    for name in rows.data_vars:
        value = rows[name].values[order]
        differs[1:] |= np.abs(value[1:] - value[:-1]) > 0
    return int((same & differs).sum())
