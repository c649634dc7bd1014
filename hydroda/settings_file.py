"""The TOML file of a deployment: read, checked and extended. All that is wrong with it is said at once, with lines."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hydroda import catalogue
from hydroda.catalogue import closest
from hydroda.settings import OWN, Catchment, Settings
from hydroda.toml_text import Key, append_table, line_numbers

TEMPLATE = (Path(__file__).parent / "template.toml").read_text(encoding="utf-8")


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
