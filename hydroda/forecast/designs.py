"""What networks beside a filter may do, by name: give the gain, or set the error levels an hour's gain follows from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hydroda.filters import levels, lstm
from hydroda.filters.beside import Learned, with_networks
from hydroda.filters.guided import DECAYS
from hydroda.filters.networks import Trained
from hydroda.filters.recipe import Build
from hydroda.forecast import correction
from hydroda.forecast.cycle import Batch
from hydroda.schema import LEADS

GAIN, LEVELS = "gain", "levels"
BEST = "best"  # of these


@dataclass(frozen=True)
class Design:
    """Untrained weights from `scales`, which states are stores, seeds and the memories [h] of the residual of an
    analysis; and the filter of weights, for networks beside (or around) a filter."""

    initial: Callable[[Mapping[str, Tensor], Tensor, Sequence[int], tuple[float, float]], dict[str, Tensor]]
    learned: Callable[[Build], Learned]


def _levels(
    scales: Mapping[str, Tensor], stores: Tensor, seeds: Sequence[int], residual_hours: tuple[float, float]
) -> dict[str, Tensor]:
    """Those whose forecasts begin as the filter's are, with what is left of the residual of the analysis added."""
    basis = torch.exp(-torch.from_numpy(LEADS).unsqueeze(1) / torch.tensor(DECAYS, dtype=torch.float64))
    left = torch.from_numpy(np.stack(correction.left(LEADS, np.array(residual_hours)), 1))
    now, before = torch.linalg.lstsq(basis, left).solution.unbind(1)
    return levels.initial(scales, stores, seeds, now, before)


DESIGNS: Mapping[str, Design] = {
    GAIN: Design(lambda scales, stores, seeds, _: lstm.initial(scales, stores, seeds), lambda build: lstm.lstm_gain),
    LEVELS: Design(_levels, lambda build: partial(levels.learned_levels, inside=build)),
}


def design(name: str) -> Design:
    """The design of this name. Raises ValueError where there is none."""
    if name not in DESIGNS:
        raise ValueError(f"there are no networks of design {name!r}; there are {', '.join(DESIGNS)}")
    return DESIGNS[name]


def beside(batch: Batch, name: str, weights: Sequence[Mapping[str, Tensor]]) -> Batch:
    """A batch with networks of one design beside its filter, from the weights (network, …) of each catchment."""
    every = {key: torch.stack([own[key] for own in weights]) for key in weights[0]}
    build = with_networks(batch.build, design(name).learned(batch.build))
    return replace(batch, build=build, networks=Trained(every))
