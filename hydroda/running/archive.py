"""The hindcasts of a month in one file: what it holds, and whether one that is there is still what would be made."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hydroda import __version__
from hydroda.domain import Domain
from hydroda.forecast import choice, predictive
from hydroda.forecast.window import CONTEXT
from hydroda.publishing import fields
from hydroda.publishing.fields import METHOD_ATTRIBUTES
from hydroda.running.forecasting import Outlook
from hydroda.running.groups import Group
from hydroda.schema import LEADS, QUANTILES, VARIABLES, quantile_name
from hydroda.storage import netcdf
from hydroda.units import HOUR
from hydroda.verifying.verification import AGE, CHANGE, DIMS, EACH, OWN

log = logging.getLogger(__name__)
METHOD = "discharge_method"  # by which each value was issued
INPUTS, MIXED = "hydroda_inputs_sha256", "of data of different times"


def columns(domain: Domain, cycles: np.ndarray, networks: int) -> dict[str, np.ndarray]:
    """What an archive of these cycles holds, (F, 24, S) or (F, S) by name, missing yet; of each network too."""
    ahead = (cycles.size, LEADS.size, len(domain.stations))
    each = {EACH: np.full((*ahead[:2], networks, ahead[2]), np.nan, np.float32)} if networks else {}
    names = ("discharge", *map(quantile_name, QUANTILES), "discharge_open_loop", *(f"discharge_{name}" for name in OWN))
    at_issue = ("observed_at_issue", CHANGE, "open_loop_at_issue", AGE)
    return (
        {name: np.full(ahead, np.nan, np.float32) for name in names}
        | {name: np.full((ahead[0], ahead[2]), np.nan, np.float32) for name in at_issue}
        | {METHOD: np.zeros(ahead, np.int8)}
        | each
    )


def fill(columns: dict[str, np.ndarray], place: int, at: np.ndarray, ahead: Outlook) -> None:
    """Writes the forecasts of a group into the columns, in place: of the cycle at `place`, of the stations `at`."""
    columns["discharge"][place][:, at] = ahead.median
    columns["discharge_open_loop"][place][:, at] = ahead.open_loop
    columns[METHOD][place][:, at] = choice.flags(ahead.method)
    for name in OWN:
        if name in ahead.candidates:
            columns[f"discharge_{name}"][place][:, at] = ahead.candidates[name]
    if ahead.networks is not None:
        columns[EACH][place][:, : ahead.networks.shape[1], at] = ahead.networks
    for level in QUANTILES:
        columns[quantile_name(level)][place][:, at] = predictive.quantile(ahead.median, ahead.spread, level)
    columns["observed_at_issue"][place, at] = ahead.newest.observed
    columns[CHANGE][place, at] = ahead.newest.change
    columns["open_loop_at_issue"][place, at] = ahead.newest.open_loop
    columns[AGE][place, at] = ahead.newest.age


def dataset(domain: Domain, cycles: np.ndarray, columns: dict[str, np.ndarray], attrs: dict[str, str]) -> xr.Dataset:
    """The archive (issue time, lead, station) of columns, made with what `attrs` say."""
    axes = {2: (DIMS[0], DIMS[2]), 3: DIMS, 4: (*DIMS[:2], "network", DIMS[2])}
    data = {name: (axes[values.ndim], values, _described(name)) for name, values in columns.items()}
    ids = np.array([station.id for station in domain.stations])
    coords: dict[str, Any] = {
        DIMS[0]: (DIMS[0], cycles, {"standard_name": "forecast_reference_time", "long_name": "issue time"}),
        DIMS[1]: (DIMS[1], LEADS, fields.lead_time(DIMS[1]).attrs),
        DIMS[2]: (DIMS[2], ids, {"standard_name": "platform_id", "long_name": "station identifier"}),
    }
    if EACH in columns:
        number = 1 + np.arange(columns[EACH].shape[2], dtype=np.int32)
        coords["network"] = "network", number, {"long_name": "number of the network", "units": "1"}
    told = {
        "Conventions": "CF-1.8",
        "institution": domain.credits.institution,
        "source": f"hydroda {__version__}, model {attrs['model']}, filter {attrs['filter']}",
        "history": f"hindcasts by hydroda {__version__}",
        "comment": "Discharge is the mean over the hour that ends forecast_period after forecast_reference_time, UTC.",
    }
    return xr.Dataset(data, coords, told | attrs)


def _described(name: str) -> dict[str, Any]:
    """The attributes of a variable of an archive."""
    if name == METHOD:
        return METHOD_ATTRIBUTES
    if name == AGE:
        return {"long_name": "age of the newest observation at issue time", "units": "hours"}
    words = name.replace("_at_issue", " at issue time").replace("discharge_q", "quantile of discharge, percent ")
    return {
        "long_name": words.replace("_", " "),
        "standard_name": fields.DISCHARGE,
        "units": VARIABLES["discharge"].units,
    }


def merged(standing: xr.Dataset, new: xr.Dataset, fresh: bool) -> xr.Dataset:
    """Both, by rising issue time; of an hour in both the new one. Where the standing ones are not `fresh`, hours that
    stay are of other data than there are now; such a month is made again when it is asked for."""
    others = ~np.isin(standing[DIMS[0]].values, new[DIMS[0]].values)
    kept = standing.isel({DIMS[0]: others})
    told = new.attrs if fresh or not others.any() else new.attrs | {INPUTS: MIXED}
    return xr.concat([kept, new], DIMS[0], join="exact").sortby(DIMS[0]).assign_attrs(told)


def attributes(domain: Domain, groups: Sequence[Group], forcing: str) -> dict[str, str]:
    """What an archive was made with; one made with something else, or before its networks could be used again, is
    made again."""
    settings = domain.settings
    members = sorted((member.content() for group in groups for member in group.members), key=itemgetter("station"))
    weights = hashlib.sha256(json.dumps(members, sort_keys=True).encode())
    return {
        "title": "hindcasts of hourly streamflow for verification",
        "domain": settings.deployment.domain,
        "forcing": forcing,
        "model": domain.models,
        "filter": settings.filter.name,
        "hydroda_config_sha256": settings.sha256,
        "hydroda_weights_sha256": weights.hexdigest(),
    }


def stored(domain: Domain, groups: Sequence[Group], cycle: np.datetime64) -> tuple[xr.Dataset, xr.Dataset]:
    """The observations and weather forecasts of the month of a cycle, from its first window to its last lead hour."""
    month = cycle.astype("datetime64[M]")
    first = month.astype("datetime64[ns]") - (domain.settings.cycle.window_hours + CONTEXT) * HOUR
    last = (month + 1).astype("datetime64[ns]") + LEADS.size * HOUR
    ids = [name for group in groups for name in group.ids]
    return domain.store.observations(ids, first, last), domain.store.forecasts(ids, first, last)


def inputs(domain: Domain, records: Sequence[xr.Dataset], forcing: str, cycle: np.datetime64) -> str:
    """SHA-256 of what is stored of the month of a cycle, and of the hindcasts of the month before, since these end
    where this one begins."""
    digest = hashlib.sha256()
    for part in records:
        for column in part.variables.values():
            values = column.values
            digest.update("\n".join(values).encode() if values.dtype.kind == "U" else values.tobytes())
    before = domain.store.archive_path(forcing, (cycle.astype("datetime64[M]") - 1).astype("datetime64[ns]"))
    with contextlib.suppress(FileNotFoundError):
        digest.update(netcdf.sidecar_path(before).read_bytes())
    return digest.hexdigest()


def standing(path: Path, attrs: dict[str, str]) -> xr.Dataset | None:
    """The archive that is there, if it was made with the same settings and parameters."""
    try:
        standing = netcdf.read(path)
    except FileNotFoundError:
        return None
    except netcdf.DamagedFile as damage:
        log.warning("%s; the month is made again", damage)
        return None
    same = all(str(standing.attrs.get(key)) == value for key, value in attrs.items())
    return standing if same and INPUTS in standing.attrs else None  # those of earlier versions do not say
