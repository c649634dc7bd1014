"""How any belief is made again of what was saved of it: the kind of the belief, and its tensors by their paths.

Saving is naming each tensor by its path (`beliefs.named`), beside the kind of the belief; no filter writes code for
either.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from hydroda.filters.beliefs import (
    Belief,
    Ensemble,
    Gaussian,
    GaussianSum,
    Guided,
    Mixed,
    Particles,
    PartlyOrthogonal,
    Point,
    SquareRoot,
)
from hydroda.filters.nested import Adaptive, Committee, Learned, Separate, Steady, Steered, TwoBiases, WithBias

PLAIN = (Gaussian, SquareRoot, Ensemble, Mixed, PartlyOrthogonal, Particles, Point, GaussianSum, Guided)
HOLDING = (WithBias, TwoBiases, Separate, Steady, Adaptive, Learned, Steered, Committee)
KINDS: Mapping[str, type] = {made.__name__: made for made in (*PLAIN, *HOLDING)}


def kind(belief: Belief) -> str:
    """The class of a belief, and after colons those of the beliefs it holds: `Ensemble`, `WithBias:Gaussian`."""
    inner = [value for field in fields(belief) if is_dataclass(value := getattr(belief, field.name))]
    return ":".join([type(belief).__name__, *map(kind, inner)])


def built(kind: str, tensors: Mapping[str, Tensor]) -> Belief:
    """The belief of a `kind` from the tensors of `named`. Raises ValueError naming what does not fit."""
    belief, rest = _built(kind.split(":"), tensors)
    if rest:
        raise ValueError(f"{kind} names more beliefs than there are tensors for: {', '.join(rest)}")
    return belief


def _built(kinds: list[str], tensors: Mapping[str, Tensor]) -> tuple[Belief, list[str]]:
    """The belief of the first kind with those it holds, in the order of its fields, and the kinds left over."""
    outer, *rest = kinds or [""]
    if outer not in KINDS:
        raise ValueError(f"there is no belief {outer!r} in `filters.kinds`; there are {', '.join(KINDS)}")
    wanted = [field.name for field in fields(KINDS[outer])]
    found = {path.partition(".")[0] for path in tensors}
    if set(wanted) != found:
        raise ValueError(f"a {outer} holds {', '.join(sorted(wanted))}; found {', '.join(sorted(found)) or 'nothing'}")
    parts: dict[str, Any] = {}
    for name in wanted:
        if name in tensors:
            parts[name] = tensors[name]
        else:
            own = {path.removeprefix(f"{name}."): t for path, t in tensors.items() if path.startswith(f"{name}.")}
            parts[name], rest = _built(rest, own)
    return KINDS[outer](**parts), rest
