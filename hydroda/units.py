"""Conversions at the border between the outside (m³/s, UTC stamps) and the inside (mm, hours)."""

from datetime import UTC, datetime

import numpy as np

HOUR = np.timedelta64(1, "h")
HOURS_PER_YEAR = 8766.0
SECONDS_PER_HOUR = 3600.0
YEARS = (1678, 2261)  # that whole nanoseconds since 1970 can tell


def mm_per_hour(discharge, area_km2):
    """Discharge [m³/s] over a catchment area [km²] as runoff depth [mm/h]: 1 mm over 1 km² is 1000 m³."""
    return discharge * (SECONDS_PER_HOUR / 1000.0) / area_km2


def m3_per_second(runoff, area_km2):
    """Runoff depth [mm/h] over a catchment area [km²] as discharge [m³/s]."""
    return runoff * area_km2 / (SECONDS_PER_HOUR / 1000.0)


def floor_hour(time: np.datetime64) -> np.datetime64:
    """The full hour at or before `time`, as datetime64[ns]."""
    return time.astype("datetime64[h]").astype("datetime64[ns]")


def hour_number(time: np.datetime64) -> int:
    """Hours since 1970."""
    return int(time.astype("datetime64[h]").astype(int))


def end_of_hour(number: int) -> np.datetime64:
    """The time at which an hour ends that is counted from 1970, as datetime64[ns]."""
    return np.datetime64(number, "h").astype("datetime64[ns]")


def utc_now() -> np.datetime64:
    """The clock, UTC, as datetime64[ns] (whole seconds)."""
    return np.datetime64(datetime.now(UTC).replace(tzinfo=None, microsecond=0), "ns")


def parse_utc(text: str) -> np.datetime64:
    """A time given by a person or a file as datetime64[ns] UTC.

    Accepts ISO 8601 ("2003-07-01", "2003-07-01T06:00", "…Z", "…+02:00"). A stamp without zone is UTC by definition
    here, as everywhere in the package. Raises ValueError naming the text and the accepted forms, or the accepted years.
    """
    try:
        stamp = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time; write it as 2003-07-01T06:00 (UTC)") from error
    if stamp.tzinfo is not None:
        stamp = stamp.astimezone(UTC).replace(tzinfo=None)
    if not YEARS[0] <= stamp.year <= YEARS[1]:
        raise ValueError(f"{text!r}: times from {YEARS[0]} to {YEARS[1]} are known here")
    return np.datetime64(stamp, "ns")


def iso(time: np.datetime64) -> str:
    """`2003-07-01T06:00Z`: how times are written in messages, attributes and file listings."""
    return f"{np.datetime_as_string(time, unit='m')}Z"


def check_full_hour(time: np.datetime64, said: str) -> None:
    """Raises ValueError, naming the time as it was `said`, where it is no full hour."""
    if time != floor_hour(time):
        raise ValueError(f"{said} is not a full hour; the nearest cycle before it is {iso(floor_hour(time))}")


def check_period(start: np.datetime64, end: np.datetime64, said: tuple[str, str] | None = None) -> None:
    """Raises ValueError, naming the times as they were `said`, where one is no full hour or the period is reversed."""
    first, last = said or (iso(start), iso(end))
    check_full_hour(start, first)
    check_full_hour(end, last)
    if end < start:
        raise ValueError(f"the period ends ({last}) before it starts ({first})")
