"""When a gauge is to be looked at: its estimated bias has left the band that estimation errors explain."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from hydroda.units import iso

NAME = "discharge_gauge_bias"
BAND = 2.0  # standard errors
SHARE = 0.1  # of the discharge, below which no forecaster acts on it
HOURS = 24  # that it must have lasted


def outside(*days: xr.Dataset | None) -> Iterator[str]:
    """A sentence for every station whose bias, through the last 24 hours of the analyses of consecutive days, is beyond
    `BAND` standard errors and, of their mean discharge, beyond `SHARE`; none where no bias is estimated, or not for so
    long."""
    columns = [NAME, f"{NAME}_standard_error", "discharge"]
    parts = [day.swap_dims(station="station_id")[columns] for day in days if day is not None and NAME in day]
    if not parts:
        return
    last = xr.concat(parts, "time", join="outer").isel(time=slice(-HOURS, None))
    if last.sizes["time"] < HOURS:
        return
    bias, error, flow = (last[name].values for name in columns)
    for i, station in enumerate(last.station_id.values):
        seen = np.isfinite(bias[:, i]) & np.isfinite(flow[:, i])
        b, e, q = bias[seen, i], error[seen, i], flow[seen, i]
        if b.size and (np.abs(b) > BAND * e).all() and abs(b.mean()) > SHARE * q.mean():
            side, other = ("high", "low") if b.mean() > 0 else ("low", "high")
            share = abs(b.mean()) / max(q.mean(), 1e-9)
            yield (
                f"{station}: the gauge seems to read {share:.0%} too {side}, or the model is too {other} "
                f"({b[-1]:+.3g} ± {e[-1]:.2g} m3/s at {iso(last.time.values[-1])})"
            )
