"""What every rainfall-runoff model promises: pure functions on tensors, and a table of its states and parameters.

Outside, axes are always three: points `x` (catchment, point, state), forcing `u` (catchment, 1, forcing), parameters
`p` (catchment, 1 or point, parameter). The equations of a model see one tensor (catchment, point) for each state,
forcing and parameter, so that they read like the paper and a model wrapped in others is stacked once. Millimetres and
hours, float64. A model never changes its arguments, conserves water (`Fluxes` is the balance of one step) and keeps its
stores non-negative where it says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.schema import VARIABLES


@dataclass(frozen=True)
class State:
    """One component of the state: name, unit, whether it holds water (the balance adds these up) and its noise law.

    `relative` states are stores whose error grows with their content; the others have a constant error.
    """

    name: str
    unit: str
    long_name: str
    water: bool = True
    relative: bool = True


@dataclass(frozen=True)
class Parameter:
    """One parameter: the interval it may be calibrated in, a default, and whether the search is in its logarithm.

    `role` "model" is found by fitting the open loop; "filter" does not act without observations and is tuned with
    the filter's error levels.
    """

    name: str
    unit: str
    long_name: str
    lower: float
    upper: float
    default: float
    log: bool = False
    role: str = "model"

    def __post_init__(self) -> None:
        if not self.lower <= self.default <= self.upper:
            raise ValueError(f"parameter {self.name}: default {self.default} outside [{self.lower}, {self.upper}]")


class Fluxes(NamedTuple):
    """Water over one step [mm], each (catchment, point): what came in, what evaporated, what left by the river."""

    inflow: Tensor
    evaporation: Tensor
    outflow: Tensor


Components = Sequence[Tensor]  # one (catchment, point) for each state, forcing or parameter, in the order of the table


@dataclass(frozen=True)
class Model:
    """A rainfall-runoff model: its tables, and its equations on components.

    `advance(x, u, p)` gives the state at the end of the step and the water balance of the step, `runoff(x, p)` the
    runoff [mm/h] that belongs to a state, `initial(p)` a plausible state to start a spin-up from. `forcings` names the
    inputs. The methods do the same on tensors.
    """

    name: str
    states: tuple[State, ...]
    parameters: tuple[Parameter, ...]
    forcings: tuple[str, ...]
    advance: Callable[[Components, Components, Components], tuple[tuple[Tensor, ...], Fluxes]]
    runoff: Callable[[Components, Components], Tensor]
    initial: Callable[[Components], tuple[Tensor, ...]]

    def __post_init__(self) -> None:
        unknown = set(self.forcings) - set(VARIABLES)
        if unknown:
            raise ValueError(f"model {self.name}: unknown forcing {sorted(unknown)}; known are {sorted(VARIABLES)}")

    def step(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        """The state at the end of the step."""
        return self.bound(p)[0](x, u)

    def balance(self, x: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Fluxes]:
        """The state at the end of the step, and the water of the step."""
        new, fluxes = self.advance(x.unbind(-1), u.unbind(-1), p.unbind(-1))
        return _stack(new), fluxes

    def discharge(self, x: Tensor, p: Tensor) -> Tensor:
        """Runoff [mm/h] of a state, (catchment, point, 1)."""
        return self.bound(p)[1](x)

    def bound(self, p: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """`step` and `discharge` with their parameters: taken apart once, and not in every step."""
        parts = p.unbind(-1)

        def step(x: Tensor, u: Tensor) -> Tensor:
            return _stack(self.advance(x.unbind(-1), u.unbind(-1), parts)[0])

        def discharge(x: Tensor) -> Tensor:
            return self.runoff(x.unbind(-1), parts).unsqueeze(-1)

        return step, discharge

    def start(self, p: Tensor) -> Tensor:
        """A plausible state (catchment, 1 or point, state)."""
        return _stack(self.initial(p.unbind(-1)))

    @property
    def defaults(self) -> Tensor:
        """The default parameters, (1, 1, parameter)."""
        return torch.tensor([[[p.default for p in self.parameters]]], dtype=torch.float64)

    def storage(self, x: Tensor) -> Tensor:
        """Water held [mm], (catchment, point)."""
        return x[..., [i for i, s in enumerate(self.states) if s.water]].sum(-1)


def _stack(components: Components) -> Tensor:
    """Components as the last axis; each stays contiguous in memory, which the next step reads ten times faster."""
    return torch.stack(torch.broadcast_tensors(*components)).movedim(0, -1)


def from_unit(parameters: Sequence[Parameter], z: np.ndarray) -> np.ndarray:
    """Points `z` (k, parameter) of the unit cube as parameter values (k, parameter), linear or logarithmic by table."""
    lower = np.array([p.lower for p in parameters])
    upper = np.array([p.upper for p in parameters])
    log = np.array([p.log for p in parameters])
    z = np.clip(z, 0.0, 1.0)
    positive = np.where(log, lower, 1.0)
    return np.where(log, positive * (np.where(log, upper, 1.0) / positive) ** z, lower + (upper - lower) * z)


def to_unit(parameters: Sequence[Parameter], values: np.ndarray) -> np.ndarray:
    """The inverse of `from_unit`, clipped to the cube."""
    lower = np.array([p.lower for p in parameters])
    upper = np.array([p.upper for p in parameters])
    log = np.array([p.log for p in parameters])
    a, b, v = (np.where(log, np.log(np.where(log, w, 1.0)), w) for w in (lower, upper, np.asarray(values)))
    return np.clip((v - a) / np.where(b > a, b - a, 1.0), 0.0, 1.0)
