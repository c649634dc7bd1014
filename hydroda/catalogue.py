"""What there is to choose from: the names of filters, models and sources, read from the source text.

Settings must be able to refuse a misspelt name and list the right ones without loading torch (a second) or a
provider's client library. So the functions are looked at, not imported:

- a filter `family.name` is a public function in `hydroda/filters/<family>.py` with `system` alone first and options by
  name, returning `Filter`;
- a modifier `family.name` is one there with `build` alone first, returning `Build`;
- a model `family.name` is a public function in `hydroda/models/<family>.py` returning `Model` and needing no argument;
- a source `kind` is a file `hydroda/sources/<kind>.py` with a function `read(start, end, catchments, *, options)`;
  `now` is no option, it comes from the program.
"""

import ast
import difflib
import importlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "Path": str,
    "None": type(None),
    "Sequence[bool]": list,
}


@dataclass(frozen=True)
class Choice:
    """Something that can be named in the settings, and its options: name -> annotation as written ("" if none)."""

    name: str
    options: dict[str, str]
    required: frozenset[str]
    open: bool  # takes any other option too (**kwargs)


def _functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(family, function) of every public module-level function in a folder of the package."""
    for path in sorted((PACKAGE / folder).glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield path.stem, node


def _choice(name: str, function: ast.FunctionDef, given: int) -> Choice:
    """The choice a function offers when its first `given` arguments come from the program."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    without_default = {a.arg for a in positional[given : len(positional) - len(args.defaults)]}
    without_default |= {a.arg for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is None}
    options = {
        a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in [*positional[given:], *args.kwonlyargs]
    }
    options = {name: kind for name, kind in options.items() if "Tensor" not in kind}  # nothing a file can hold
    options.pop("now", None)
    return Choice(name, options, frozenset(without_default), args.kwarg is not None)


def _returns(function: ast.FunctionDef, name: str) -> bool:
    return function.returns is not None and ast.unparse(function.returns).split(".")[-1] == name


@cache
def filters() -> dict[str, Choice]:
    """Every filter, "family.name" -> its options."""
    found = {}
    for family, function in _functions("filters"):
        if _returns(function, "Filter") and [a.arg for a in function.args.args] == ["system"]:
            name = f"{family}.{function.name}"
            choice = _choice(name, function, 1)
            if choice.required <= choice.options.keys():
                found[name] = choice
    return found


@cache
def modifiers() -> dict[str, Choice]:
    """Every modifier of filters, "family.name" -> its options."""
    found = {}
    for family, function in _functions("filters"):
        if _returns(function, "Build") and [a.arg for a in function.args.args] == ["build"]:
            name = f"{family}.{function.name}"
            found[name] = _choice(name, function, 1)
    return found


@cache
def models() -> dict[str, Choice]:
    """Every model, "family.name" -> its options."""
    found = {}
    for family, function in _functions("models"):
        choice = _choice(f"{family}.{function.name}", function, 0)
        if _returns(function, "Model") and not choice.required:
            found[choice.name] = choice
    return found


@cache
def sources() -> dict[str, Choice]:
    """Every kind of source -> its options."""
    return {kind: _choice(kind, function, 3) for kind, function in _functions("sources") if function.name == "read"}


def taken_apart(name: str, known: Collection[str]) -> list[str]:
    """A filter, one of those `known`, and its modifiers: "sigma.ukf+reduce.steady" in its parts.

    Raises ValueError naming what there is not.
    """
    own, *others = name.split("+")
    for part, what, choices in ((own, "filter", known), *((other, "modifier", modifiers()) for other in others)):
        if part not in choices:
            marks = _lacking(part) if what == "filter" else ""
            raise ValueError(f"there is no {what} {part!r} to try; {marks or closest(part, sorted(choices))}")
    return [own, *others]


def _lacking(name: str) -> str:
    """What a function "family.name" among the filters lacks to be one; empty where there is none of that name."""
    for family, found in _functions("filters"):
        if name == f"{family}.{found.name}":
            return (
                "its function must take `system` alone before `*` and its options after, and say that it returns Filter"
            )
    return ""


def function(folder: str, name: str) -> Callable[..., Any]:
    """What "family.name" in a folder of the package stands for; loads its file and with it torch."""
    family, _, own = name.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"hydroda.{folder}.{family}"), own)
    return found


def closest(found: str, allowed: list[str]) -> str:
    """What there is instead of a name that is not there, and the one probably meant."""
    near = difflib.get_close_matches(found, allowed, 1, 0.6)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(allowed) or 'none'}"


def option_problems(choice: Choice, options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong): not taken, of another type than declared, or required and missing."""
    for name, value in options.items():
        if name not in choice.options:
            if not choice.open:
                yield name, f"{choice.name!r} has no such option; {closest(name, sorted(choice.options))}"
            continue
        declared = [part.strip() for part in choice.options[name].split("|")]
        if all(part in TYPES for part in declared):
            fits = any(isinstance(value, TYPES[part]) for part in declared)
            if not fits or (isinstance(value, bool) and "bool" not in declared):
                yield name, f"must be {choice.options[name]}, found {value!r}"
    for name in sorted(choice.required - options.keys()):
        yield name, f"is required by {choice.name!r} and missing"
