"""The text of a TOML file: on which line a value stands, and how one more table is added without losing comments."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]  # ("catchment", 0, "area_km2")


def _statements(text: str) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """(line, content, is header) of every statement of a valid TOML text.

    A statement is the shortest run of lines that is TOML on its own: a value that goes on (array, long string) is not.
    """
    lines, start = text.splitlines(), 0
    while start < len(lines):
        end = start + 1
        while True:
            try:
                content = tomllib.loads("\n".join(lines[start:end]) + "\n")
                break
            except tomllib.TOMLDecodeError:
                end += 1
                if end > len(lines):
                    raise
        if content:
            yield start + 1, content, lines[start].lstrip().startswith("[")
        start = end


def line_numbers(text: str) -> dict[Key, int]:
    """Key -> line (from 1) of every table and value of a valid TOML text; arrays of tables count from 0."""
    lines: dict[Key, int] = {}
    count: dict[Key, int] = {}
    table: Key = ()

    def record(key: Key, content: Any, line: int) -> None:
        lines.setdefault(key, line)
        if isinstance(content, list):
            content = dict(enumerate(content))
        if isinstance(content, dict):
            for name, value in content.items():
                record((*key, name), value, line)

    for line, content, header in _statements(text):
        if not header:
            for name, value in content.items():
                record((*table, name), value, line)
            continue
        table = ()
        level: Any = content
        while isinstance(level, dict) and level:
            name, level = next(iter(level.items()))
            table = (*table, name)
            if isinstance(level, list):  # [[name]]: one more
                count[table] = count.get(table, -1) + 1
                level = level[0]
            if table in count:  # within the latest of them
                lines.setdefault(table, line)
                table = (*table, count[table])
        lines.setdefault(table, line)
    return lines


def literal(value: str | float | list[float]) -> str:
    """A value as TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def append_table(text: str, name: str, values: dict[str, Any]) -> str:
    """The text with one more `[[name]]` at its end; everything above stays as it is, comments and line ends too."""
    newline = "\r\n" if "\r\n" in text else "\n"
    block = [f"[[{name}]]", *(f"{key} = {literal(value)}" for key, value in values.items())]
    gap = "" if not text else newline if text.endswith("\n") else 2 * newline
    return text + gap + newline.join(block) + newline
