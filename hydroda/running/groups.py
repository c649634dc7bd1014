"""Catchments of a deployment that are computed together: those that share a model, with the networks each has."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from hydroda import catalogue
from hydroda.domain import Domain
from hydroda.forecast import batches, choice, cycle, designs, network_files
from hydroda.forecast.calibrated import GAUGE, Calibrated
from hydroda.forecast.choice import BOTH, NETWORKS
from hydroda.forecast.cycle import Batch
from hydroda.forecast.window import Place
from hydroda.settings import Filter
from hydroda.vocabulary import LEAD_FORCINGS

log = logging.getLogger(__name__)


class Networks(NamedTuple):
    """Networks of a catchment: their design, none where there are none, and their weights (network, …)."""

    design: str
    weights: dict[str, torch.Tensor]

    @property
    def kind(self) -> tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]:
        """What is the same of networks that can be computed together: design, names and shapes of weights."""
        return self.design, tuple(sorted((name, tuple(value.shape)) for name, value in self.weights.items()))


@dataclass(frozen=True)
class Group:
    """Stations that are one batch; `columns` are their positions among the stations of the domain, `blind` those whose
    networks cannot be used."""

    columns: np.ndarray
    members: tuple[Calibrated, ...]
    places: tuple[Place, ...]
    batch: Batch
    fingerprints: tuple[str, ...]
    blind: tuple[str, ...]

    @property
    def forcings(self) -> tuple[str, ...]:
        """The weather its model needs."""
        return self.batch.model.forcings

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Its stations."""
        return tuple(place.id for place in self.places)

    @cached_property
    def area(self) -> np.ndarray:
        """km² of each of its stations (c,)."""
        return np.array([place.area_km2 for place in self.places])

    @cached_property
    def choice(self) -> dict[str, np.ndarray]:
        """By forcing of the lead hours, the method issued at each lead (24, c)."""
        return _by_forcing([member.choice for member in self.members])

    @cached_property
    def spread(self) -> dict[str, np.ndarray]:
        """By forcing, the factors (2, class, 24, c) on the spread of the filter."""
        return _by_forcing([member.spread for member in self.members])


def _by_forcing(every: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """What was found of each station with each forcing (…, c); with observed rain where there is nothing else."""
    return {
        kind: np.stack([np.array(found.get(kind, found["observed"])) for found in every], -1) for kind in LEAD_FORCINGS
    }


def grouped(domain: Domain) -> tuple[tuple[Group, ...], dict[str, str]]:
    """The groups of a domain, and of stations that are in none why."""
    lacking = dict(domain.lacking)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    used, networks = [], []
    for i, member in enumerate(domain.members):
        networks.append(_networks(domain, member))
        used.append(member if networks[i].weights else _unaided(member))
        try:
            _check(member, domain.places[i].area_km2)
        except ValueError as error:
            lacking[member.station] = str(error)
        else:
            kinds.setdefault((member.model, member.temperature, networks[i].kind), []).append(i)
    groups = []
    for positions in kinds.values():
        members, design = tuple(used[i] for i in positions), networks[positions[0]].design
        prints = tuple(member.fingerprint(domain.settings) for member in members)
        places = tuple(domain.places[i] for i in positions)
        made = batches.batch(members, domain.settings)
        if design:
            made = designs.beside(made, design, [networks[i].weights for i in positions])
        blind = tuple(m.station for m in (domain.members[i] for i in positions) if not design and _asks(domain, m))
        groups.append(Group(domain.columns[positions], members, places, made, prints, blind))
    return tuple(groups), lacking


def alone(domain: Domain, group: Group) -> Iterator[Group]:
    """Each station of a group as a group of its own."""
    for i, member in enumerate(domain.members):
        if member.station in group.ids:
            yield from grouped(replace(domain, members=(member,), columns=domain.columns[[i]], lacking={}))[0]


def tried(group: Group) -> None:
    """An hour without rain and observation from a plausible state. Raises what the filter of a group raises, and
    ValueError for one that does not say how wrong its forecast may be: there could be no interval, so no product."""
    made, size = group.batch, len(group.ids)
    x = made.model.start(made.parameters)
    begun = cycle.Moment(0, made.believe(x, 0), x)
    forcing, nothing = torch.zeros(1, size, len(group.forcings), dtype=x.dtype), torch.full((1, size), torch.nan)
    for analysis in cycle.assimilate(made, begun, forcing, nothing.to(x), torch.ones_like(nothing).to(x)):
        if not torch.isfinite(analysis.standard_error).all():
            raise ValueError(
                "the filter states no error of its forecasts (`cov` of `Predicted`), so they would have no intervals"
            )


def _asks(domain: Domain, member: Calibrated) -> bool:
    """Whether networks were trained for a catchment and are to share in its forecasts."""
    chosen = {name for names in member.choice.values() for name in names}
    return member.taught is not None and bool(chosen & {NETWORKS, BOTH}) and domain.settings.filter.networks


def _unaided(member: Calibrated) -> Calibrated:
    """A catchment without networks."""
    choices = {forcing: choice.without_networks(names) for forcing, names in member.choice.items()}
    return replace(member, taught=None, choice=choices)


def _networks(domain: Domain, member: Calibrated) -> Networks:
    """Those that share in the forecasts of a catchment, none where there are none or not these."""
    taught = member.taught
    if taught is None or not _asks(domain, member):
        return Networks("", {})
    path = domain.store.weights_path(member.station)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != taught.sha256:
            raise ValueError("not what was trained with the parameters beside it")
        beside = Filter().model_dump(mode="json") | taught.report.get("filter", {})  # settings later versions have more
        if beside != domain.settings.filter.model_dump(mode="json"):
            raise ValueError("trained beside another filter")
        weights = network_files.weights_in(content)
        name = taught.report.get("design", designs.GAIN)  # those from before there was a choice say nothing
        designs.design(name)
        states = len(batches.build_model(member.model, member.temperature).states)
        if weights["fixed.content"].shape[-1] != states:
            raise ValueError(f"for {weights['fixed.content'].shape[-1]} states, {member.model} has {states}")
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: %s is not used (%s); the filter goes on alone", member.station, path, error)
        return Networks("", {})
    return Networks(name, weights)


def _check(member: Calibrated, area: float) -> None:
    """Raises ValueError when parameters or errors are not those of the model, or not finite, or were found for a
    catchment of another area [km²]."""
    if member.model not in catalogue.models():
        raise ValueError(f"was calibrated for {member.model!r}, which there is not: calibrate again")
    if member.area_km2 not in (None, area):
        raise ValueError(
            f"was calibrated with an area of {member.area_km2:g} km2, the settings say {area:g}: correct them, or "
            "calibrate again"
        )
    model = batches.build_model(member.model, member.temperature)
    for what, expected, found in (
        ("parameters", [p.name for p in model.parameters], member.parameters),
        ("errors", [*(s.name for s in model.states), GAUGE], member.errors),
    ):
        if set(expected) != set(found):
            raise ValueError(f"{what} of {member.model} are {expected}, found {sorted(found)}: calibrate again")
        if not np.isfinite(np.array(list(found.values()))).all():
            raise ValueError(f"{what} are not all finite: calibrate again")
