"""What a filter knows, and all it needs tomorrow: frozen dataclasses of tensors whose first axis is the catchment.

The type says how the covariance is represented. Saving is naming each tensor by its path, loading is the reverse; no
filter writes code for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean (c, 1, n) and full covariance (c, n, n)."""

    mean: Tensor
    cov: Tensor

    def shifted(self, d: Tensor) -> "Gaussian":
        """The belief with its mean moved by d (c, 1, n)."""
        return replace(self, mean=self.mean + d)


@dataclass(frozen=True)
class Ensemble:
    """Members (c, N, n); the covariance is that of their anomalies, divisor N − 1."""

    members: Tensor

    @property
    def mean(self) -> Tensor:
        """(c, 1, n)."""
        return self.members.mean(1, keepdim=True)

    @property
    def cov(self) -> Tensor:
        """(c, n, n)."""
        a = self.members - self.mean
        return a.transpose(-1, -2) @ a / (a.shape[1] - 1)

    def shifted(self, d: Tensor) -> "Ensemble":
        """The belief with every member moved by d (c, 1, n)."""
        return Ensemble(self.members + d)


Belief = Any  # one of the classes above; filters agree on its attributes, not on a common ancestor
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in (Gaussian, Ensemble)}


def named(belief: Belief) -> dict[str, Tensor]:
    """Every tensor of a belief by its path, such as `mean` or `state.members`."""
    found: dict[str, Tensor] = {}
    for field in fields(belief):
        value = getattr(belief, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": tensor for name, tensor in named(value).items()}
        else:
            found[field.name] = value
    return found


def built(kind: str, tensors: Mapping[str, Tensor]) -> Belief:
    """The belief of a class from the tensors of `named`. Raises ValueError naming what does not fit."""
    if kind not in KINDS:
        raise ValueError(f"there is no belief {kind!r}; there are {', '.join(KINDS)}")
    wanted = {field.name for field in fields(KINDS[kind])}
    if wanted != set(tensors):
        raise ValueError(f"a {kind} holds {', '.join(sorted(wanted))}; found {', '.join(sorted(tensors)) or 'nothing'}")
    return KINDS[kind](**tensors)


def mapped(function: Callable[..., Tensor], *beliefs: Belief) -> Belief:
    """The belief whose every tensor is `function` of the same tensors of some beliefs of one kind."""
    first = beliefs[0]
    parts = {}
    for field in fields(first):
        values = [getattr(belief, field.name) for belief in beliefs]
        parts[field.name] = mapped(function, *values) if is_dataclass(values[0]) else function(*values)
    return type(first)(**parts)


def chosen(condition: Tensor, first: Belief, second: Belief) -> Belief:
    """`first` where `condition` (c,) is true, `second` elsewhere."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition.reshape(-1, *(1,) * (a.dim() - 1)), a, b)

    return mapped(choose, first, second)


def joined(beliefs: Sequence[Belief]) -> Belief:
    """The catchments of all beliefs, one after the other."""
    return mapped(lambda *tensors: torch.cat(tensors), *beliefs)
