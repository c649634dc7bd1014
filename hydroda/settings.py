"""One TOML file as one frozen object. Whatever is wrong with the file is said at once: line, key, found, allowed."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from hydroda import catalogue
from hydroda.catalogue import closest
from hydroda.schema import STATION_ID
from hydroda.toml_text import Key, append_table, line_numbers
from hydroda.units import floor_hour

TEMPLATE = (Path(__file__).parent / "template.toml").read_text(encoding="utf-8")
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

    window_hours: Annotated[int, Field(ge=1, le=240)] = 48
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


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the file: where, and what."""

    key: Key
    what: str


class SettingsError(ValueError):
    """The file cannot be used; the message has one line for each problem."""

    def __init__(self, path: Path, problems: list[tuple[int | None, str]]) -> None:
        where = [f"{path}, line {line}: {text}" if line else f"{path}: {text}" for line, text in problems]
        super().__init__("\n".join(where))


def load(path: Path) -> Settings:
    """The settings in a TOML file. Raises SettingsError with every problem found, in the order of the lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(path, [(None, "there is no such file; `hydroda init` makes one")]) from None
    except UnicodeDecodeError as error:
        raise SettingsError(path, [(None, f"is not UTF-8 text ({error.reason} at byte {error.start})")]) from None
    except OSError as error:
        raise SettingsError(path, [(None, f"cannot be read: {error.strerror}")]) from None
    return parse(text, path)


def parse(text: str, path: Path = Path("hydroda.toml")) -> Settings:
    """The settings in TOML text that stands in (or is about to be written to) `path`. Raises SettingsError."""
    text = text.removeprefix("\ufeff")  # some editors begin a file with it
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise SettingsError(path, [(int(line[1]) if line else None, f"is not TOML: {error}")]) from None
    problems = [*_choice_problems(raw), *_duplicates(raw)]
    try:
        settings = Settings.model_validate(_with_options(raw))
    except ValidationError as error:
        problems += [_problem(dict(e)) for e in error.errors(include_url=False)]
    if problems:
        lines = line_numbers(text)
        located = [(_line(p.key, lines), f"{dotted(p.key)}: {p.what}") for p in problems]
        raise SettingsError(path, sorted(located, key=lambda entry: (entry[0] or 0, entry[1])))
    settings._file = path
    return settings


def append_catchment(text: str, catchment: Catchment, path: Path = Path("hydroda.toml")) -> str:
    """The text of a settings file with one more catchment at its end; comments stay. Raises SettingsError."""
    new = append_table(text, "catchment", catchment.model_dump(mode="json", exclude_defaults=True))
    parse(new, path)
    return new


def dotted(key: Key) -> str:
    """`catchment[0].area_km2`, as people write keys."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def _line(key: Key, lines: dict[Key, int]) -> int | None:
    """The line of a key, or of the nearest table around it."""
    return next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)


def _with_options(raw: dict[str, Any]) -> dict[str, Any]:
    """The raw file with the further keys of each source and each modifier moved under `options`."""

    def moved(table: dict[str, Any], name: str) -> dict[str, Any]:
        if not isinstance(table.get(name), list):
            return table
        entries = [
            {k: v for k, v in e.items() if k in OWN} | {"options": {k: v for k, v in e.items() if k not in OWN}}
            if isinstance(e, dict)
            else e
            for e in table[name]
        ]
        return table | {name: entries}

    raw = moved(raw, "source")
    return raw | {"filter": moved(raw["filter"], "modifier")} if isinstance(raw.get("filter"), dict) else raw


def _problem(error: dict[str, Any]) -> Problem:
    """A pydantic error in our words."""
    key: Key = error["loc"]
    if error["type"] == "missing":
        return Problem(key, "is required and missing")
    if error["type"] == "extra_forbidden":
        return Problem(key, f"unknown key; {closest(str(key[-1]), _allowed(key[:-1]))}")
    text = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return Problem(key, f"{text[0].lower()}{text[1:]}, found {error['input']!r}")


def _allowed(key: Key) -> list[str]:
    """The keys a table may have."""
    section: Any = Settings
    for part in key:
        if isinstance(part, str):
            field = next(f for name, f in section.model_fields.items() if part in (name, f.alias))
            section = (get_args(field.annotation) or (field.annotation,))[0]
    return [field.alias or name for name, field in section.model_fields.items()]


def _tables(raw: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The tables of an array, {} where something else stands (reported by pydantic)."""
    array = raw.get(name)
    return [t if isinstance(t, dict) else {} for t in array] if isinstance(array, list) else []


def _duplicates(raw: dict[str, Any]) -> Iterator[Problem]:
    for table, key in (("source", "name"), ("catchment", "id")):
        seen: dict[str, int] = {}
        for i, entry in enumerate(_tables(raw, table)):
            value = entry.get(key)
            if isinstance(value, str) and value in seen:
                yield Problem((table, i, key), f"{value!r} is already the {key} of {table}[{seen[value]}]")
            elif isinstance(value, str):
                seen[value] = i


def _choice_problems(raw: dict[str, Any]) -> Iterator[Problem]:
    """Names of models, filters and sources that there are not, and options they do not take."""
    for section, choices in (("model", catalogue.models()), ("filter", catalogue.filters())):
        table = raw.get(section, {})
        if isinstance(table, dict):
            name = table.get("name", Settings.model_fields[section].default.name)
            yield from _choice(
                section, (section, "name"), name, choices, (section, "options"), table.get("options", {})
            )
    own = raw.get("model", {})
    others = own.get("alternatives") if isinstance(own, dict) else None
    for i, name in enumerate(others if isinstance(others, list) else []):
        yield from _choice("model", ("model", "alternatives", i), name, catalogue.models(), (), {})
    own = raw.get("filter", {})
    for i, table in enumerate(_tables(own if isinstance(own, dict) else {}, "modifier")):
        options = {k: v for k, v in table.items() if k != "name"}
        key = ("filter", "modifier", i)
        yield from _choice("modifier", (*key, "name"), table.get("name"), catalogue.modifiers(), key, options)
    for i, table in enumerate(_tables(raw, "source")):
        options = {k: v for k, v in table.items() if k not in ("name", "kind")}
        yield from _choice(
            "source", ("source", i, "kind"), table.get("kind"), catalogue.sources(), ("source", i), options
        )


def _choice(
    what: str, key: Key, name: object, choices: dict[str, catalogue.Choice], options_key: Key, options: object
) -> Iterator[Problem]:
    """What is wrong with the name of a model, filter, …, and its options; other types are reported by pydantic."""
    if not isinstance(name, str) or not isinstance(options, dict):
        return
    if name not in choices:
        yield Problem(key, f"there is no {what} {name!r}; {closest(name, sorted(choices))}")
        return
    for option, wrong in catalogue.option_problems(choices[name], options):
        yield Problem((*options_key, option), wrong)
