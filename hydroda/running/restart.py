"""Beliefs to files and back, bit for bit: moments of batches as a dataset without units, which is kept as it is.

A file holds one or more groups, each the moment of stations that share a model and a filter. A belief is worth nothing
under other parameters than it was made with: `fingerprint` of each station is kept and compared.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hydroda.filters.beliefs import mapped, named
from hydroda.filters.kinds import built, kind
from hydroda.forecast.choice import METHODS
from hydroda.forecast.cycle import Moment
from hydroda.forecast.ledger import Ledger

FORMAT = "hydroda belief 3"


@dataclass(frozen=True)
class Saved:
    """The moment of some stations and the ledger beside it, with the fingerprint of what each was made with."""

    stations: tuple[str, ...]
    fingerprints: tuple[str, ...]
    moment: Moment
    ledger: Ledger


def dataset(groups: Sequence[Saved]) -> xr.Dataset:
    """The groups as one dataset; `groups_of` is the way back."""
    columns: dict[str, xr.Variable] = {}
    attrs: dict[str, str | int] = {"format": FORMAT, "groups": len(groups)}
    for i, group in enumerate(groups):
        station = f"g{i}_station"
        columns[f"g{i}_station_id"] = xr.Variable(station, np.array(group.stations))
        columns[f"g{i}_fingerprint"] = xr.Variable(station, np.array(group.fingerprints))
        attrs |= {f"g{i}_hour": group.moment.hour, f"g{i}_belief": kind(group.moment.belief)}
        for name, tensor in _tensors(group.moment).items():
            dims = (station, *(f"g{i}_{name}_{axis}" for axis in range(1, tensor.dim())))
            columns[f"g{i}_{name}"] = xr.Variable(dims, tensor.numpy())
        for field in fields(Ledger):
            values = getattr(group.ledger, field.name)
            dims = (*(f"g{i}_ledger_{size}" for size in values.shape[:-1]), station)
            columns[f"g{i}_ledger.{field.name}"] = xr.Variable(dims, values)
    return xr.Dataset(columns, attrs=attrs)


def groups_of(ds: xr.Dataset) -> list[Saved]:
    """The groups of a dataset. Raises ValueError when it is not one of `dataset`."""
    if ds.attrs.get("format") != FORMAT:
        raise ValueError(f"format is {ds.attrs.get('format')!r}, expected {FORMAT!r}")
    groups = []
    for i in range(int(ds.attrs["groups"])):
        lead = f"g{i}_"
        own = {str(name).removeprefix(lead): ds[name].values for name in ds.variables if str(name).startswith(lead)}
        stations, fingerprints = (tuple(map(str, own.pop(name))) for name in ("station_id", "fingerprint"))
        ledger = Ledger(**{f.name: np.array(own.pop(f"ledger.{f.name}")) for f in fields(Ledger)})
        if len(ledger.squares) != len(METHODS):
            raise ValueError(f"a ledger of {len(ledger.squares)} methods, there are {len(METHODS)}")
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in own.items()}
        open_loop = tensors.pop("open_loop")
        belief = built(str(ds.attrs[f"{lead}belief"]), {n.removeprefix("belief."): t for n, t in tensors.items()})
        moment = Moment(int(ds.attrs[f"{lead}hour"]), belief, open_loop)
        groups.append(Saved(stations, fingerprints, moment, ledger))
    return groups


def picked(moment: Moment, index: Sequence[int]) -> Moment:
    """The moment of the catchments at these positions."""
    at = torch.tensor(index)
    return Moment(moment.hour, mapped(lambda tensor: tensor[at], moment.belief), moment.open_loop[at])


def digest(moment: Moment) -> str:
    """SHA-256 of the numbers of a moment, whatever file they came from."""
    total = hashlib.sha256(str(moment.hour).encode())
    for name, tensor in _tensors(moment).items():
        total.update(name.encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _tensors(moment: Moment) -> Mapping[str, Tensor]:
    return {f"belief.{name}": tensor for name, tensor in named(moment.belief).items()} | {"open_loop": moment.open_loop}
