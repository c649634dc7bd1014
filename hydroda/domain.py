"""The catchments of a deployment and what is known of each: those that can be forecast, and why the others cannot."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hydroda.forecast import calibrated
from hydroda.forecast.calibrated import Calibrated
from hydroda.forecast.window import Place
from hydroda.publishing.attributes import Credits
from hydroda.publishing.fields import Station
from hydroda.settings import Settings
from hydroda.storage.netcdf import DamagedFile
from hydroda.storage.store import Store


@dataclass(frozen=True)
class Domain:
    """All stations of the settings in their order, and those that are calibrated, with their positions among all.

    `lacking` says of the others why they cannot be forecast.
    """

    settings: Settings
    store: Store
    stations: tuple[Station, ...]
    members: tuple[Calibrated, ...]
    columns: np.ndarray
    lacking: dict[str, str]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The calibrated stations as windows see them."""
        areas = (self.stations[i].area_km2 for i in self.columns)
        return tuple(Place(m.station, area, m.limits, m.climate) for m, area in zip(self.members, areas, strict=True))

    @cached_property
    def area(self) -> np.ndarray:
        """km², one for each station."""
        return np.array([station.area_km2 for station in self.stations])

    @property
    def models(self) -> str:
        """The rainfall-runoff models of the calibrated stations, as files name them."""
        return ", ".join(sorted({member.model for member in self.members})) or self.settings.model.name

    @property
    def credits(self) -> Credits:
        """Who answers for the files."""
        told = self.settings.deployment.model_dump()
        return Credits(**{name: told[name] for name in Credits.__dataclass_fields__})


def station(catchment: object) -> Station:
    """A gauge of the settings as products show it."""
    return Station(**{name: getattr(catchment, name) for name in Station.__dataclass_fields__})


def store_of(settings: Settings) -> Store:
    """The store of a deployment."""
    return Store(settings.store, settings.deployment.domain)


def load(settings: Settings) -> Domain:
    """The domain of the settings. A catchment without usable parameters is named in `lacking`."""
    store = store_of(settings)
    usable: list[Calibrated] = []
    columns: list[int] = []
    lacking: dict[str, str] = {}
    for i, catchment in enumerate(settings.catchments):
        try:
            content = store.read_parameters(catchment.id)
            if content is None:
                lacking[catchment.id] = "is not calibrated; hydroda calibrate fits a model to its observations"
                continue
            usable.append(calibrated.restore(content))
            columns.append(i)
        except (DamagedFile, ValueError, OSError) as error:
            lacking[catchment.id] = f"{store.parameters_path(catchment.id)}: {error}"
    stations = tuple(map(station, settings.catchments))
    return Domain(settings, store, stations, tuple(usable), np.array(columns, int), lacking)
