"""What a deployment is: one frozen object, made of one TOML file by `settings_file`."""

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr

from hydroda import catalogue
from hydroda.schema import STATION_ID
from hydroda.units import floor_hour

NOT_SET = "not set"
SECRET = re.compile(r"token|secret|password|api_?key", re.IGNORECASE)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(b <= a for a, b in pairwise(values)):
        raise ValueError("must rise from one value to the next")
    return values


def _identifier(text: str) -> str:
    if not STATION_ID.match(text):  # it becomes part of a path
        raise ValueError("must be 1 to 32 of a-z, 0-9, '_' and '-', starting with a letter or digit")
    return text


Identifier = Annotated[str, AfterValidator(_identifier)]
OWN = ("name", "kind")  # keys of a source or modifier that are no options of it
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """One table of the file: strict types, no unknown key, no infinite number, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Deployment(Section):
    """Who runs this, for which domain, and where its files are (`store` counts from the folder of the file)."""

    domain: Identifier
    store: Annotated[str, Field(min_length=1)] = "store"
    title: str = NOT_SET
    institution: str = NOT_SET
    creator_name: str = NOT_SET
    creator_email: str = NOT_SET
    creator_url: str = NOT_SET
    project: str = NOT_SET
    license: str = NOT_SET
    acknowledgement: str = NOT_SET
    references: str = NOT_SET


class Cycle(Section):
    """The hourly cycle: hours assimilated again each time, minutes to wait for data, bounds of catch-up and spin-up."""

    window_hours: Annotated[int, Field(ge=24, le=240)] = 48  # analyses are published day by day
    cut_off_minutes: Annotated[int, Field(ge=0, le=59)] = 10
    catch_up_hours: Annotated[int, Field(ge=0, le=240)] = 48
    spin_up_hours: Annotated[int, Field(ge=0, le=87_600)] = 8760


class Forcing(Section):
    """The weather of the lead hours in live runs: forecasts kept in the store, or none."""

    forecast: Literal["archived", "none"] = "archived"


class Model(Section):
    """The rainfall-runoff model, "family.name", and others, one of which is calibrated where it is clearly better."""

    name: str = "hbv.hourly"
    alternatives: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Modifier(Section):
    """Something that changes a filter, "family.name"; every further key is an option of it."""

    name: str
    options: dict[str, Any] = {}


class Filter(Section):
    """The filter, "family.name", the seed of its random numbers, its options, modifiers in the order they act, and
    whether networks that were trained for a catchment stand beside it."""

    name: str = "sigma.ukf"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    options: dict[str, Any] = {}
    modifiers: Annotated[tuple[Modifier, ...], Field(alias="modifier", strict=False)] = ()
    networks: bool = True


class Source(Section):
    """A data source: `kind` is the file in `hydroda/sources`, every further key an option of its `read`."""

    name: Identifier
    kind: str
    options: Annotated[dict[str, Any], Field(repr=False)] = {}


class Catchment(Section):
    """A gauge and the area above it [km²]; degrees, metres; yearly potential evapotranspiration [mm]; levels [m³/s]."""

    id: Identifier
    area_km2: Annotated[float, Field(gt=0, le=10_000_000)]
    name: str = ""
    lat: Annotated[float, Field(ge=-90, le=90)] | None = None
    lon: Annotated[float, Field(ge=-180, le=360)] | None = None
    elevation: Annotated[float, Field(ge=-500, le=9000)] | None = None
    pet_mm_per_year: Annotated[float, Field(gt=0, le=4000)] = 550.0
    thresholds: Annotated[tuple[Positive, ...], Field(strict=False), AfterValidator(_ascending)] = ()


class Settings(Section):
    """The whole file."""

    deployment: Deployment
    cycle: Cycle = Cycle()
    forcing: Forcing = Forcing()
    model: Model = Model()
    filter: Filter = Filter()
    sources: Annotated[tuple[Source, ...], Field(alias="source", strict=False)] = ()
    catchments: Annotated[tuple[Catchment, ...], Field(alias="catchment", strict=False)] = ()
    _file: Path = PrivateAttr(default=Path("hydroda.toml"))

    @property
    def file(self) -> Path:
        """The file these settings were read from."""
        return self._file

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self._file.parent / self.deployment.store

    def cycle_at(self, clock: np.datetime64) -> np.datetime64:
        """The cycle that is due at a time of the clock: the last full hour whose data had their minutes to arrive."""
        return floor_hour(clock - self.cut_off)

    def known_by(self, cycle: np.datetime64) -> np.datetime64:
        """The moment at which a cycle stops waiting for data."""
        return cycle + self.cut_off

    @property
    def cut_off(self) -> np.timedelta64:
        """How long after its hour a cycle waits for data."""
        return np.timedelta64(self.cycle.cut_off_minutes, "m")

    def catchment(self, station: str) -> Catchment:
        """The catchment with this id. Raises KeyError listing the ids there are."""
        return _named(self.catchments, "id", station, self._file)

    def source(self, name: str) -> Source:
        """The source with this name. Raises KeyError listing the names there are."""
        return _named(self.sources, "name", name, self._file)

    def source_options(self, name: str) -> dict[str, Any]:
        """The options of a source, its paths counted from the folder of the file."""
        source = self.source(name)
        declared = catalogue.sources()[source.kind].options
        return {
            key: self._file.parent / value if "Path" in declared.get(key, "") else value
            for key, value in source.options.items()
        }

    @property
    def sha256(self) -> str:
        """Hash of the resolved configuration: defaults filled in, secrets and the place of the store left out."""
        content = self.model_dump(mode="json", by_alias=True)
        del content["deployment"]["store"]
        for source in content["source"]:
            source["options"] = {k: v for k, v in source["options"].items() if not SECRET.search(k)}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _named(items: tuple[Any, ...], key: str, value: str, file: Path) -> Any:
    for item in items:
        if getattr(item, key) == value:
            return item
    raise KeyError(f"{value!r} is not in {file}; there are: {', '.join(getattr(i, key) for i in items) or 'none'}")
