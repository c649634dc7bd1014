"""Layers of small networks, many networks side by side: a stack of them costs one tensor operation where one costs it.

Weights are tensors by name whose first axis is the network; catchments belong to the networks in equal parts, in order.
Inside a network rows are (network, feature, row), the batch last, since a thin layer is several times faster that way.
What is named `fixed.…` belongs to the network and is not trained. Networks hold weights, never time.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = "fixed."


@dataclass(frozen=True)
class Layer:
    """A layer of a network: its sizes, whether it is recurrent and with how many gates, and a factor on what it begins
    with."""

    name: str
    inputs: int
    outputs: int
    recurrent: bool = False
    size: float = 1.0
    gates: int = 3


def weights(layers: Iterable[Layer], seeds: Iterable[int], **fixed: Tensor) -> dict[str, Tensor]:
    """Weights (net, …), drawn as PyTorch does for each layer, of a network for each of `seeds`; `fixed` ones as given.

    Uniform within ± 1/√(inputs), of recurrent units ± 1/√(outputs).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawn(layer: Layer, *shape: int) -> Tensor:
        bound = layer.size / math.sqrt(layer.outputs if layer.recurrent else layer.inputs)
        every = [torch.rand(*shape, generator=generator, dtype=torch.float64) for generator in generators]
        return bound * (2.0 * torch.stack(every) - 1.0)

    found = {}
    for layer in layers:
        rows = layer.gates * layer.outputs if layer.recurrent else layer.outputs
        found[f"{layer.name}.weight"] = drawn(layer, rows, layer.inputs)
        found[f"{layer.name}.bias"] = drawn(layer, rows, 1)
        if layer.recurrent:
            found[f"{layer.name}.hidden_weight"] = drawn(layer, rows, layer.outputs)
            found[f"{layer.name}.hidden_bias"] = drawn(layer, rows, 1)
    return found | {f"{FIXED}{name}": value.double() for name, value in fixed.items()}


class Trained(Mapping[str, Tensor]):
    """Weights of the networks of catchments by name (c·s, …).

    They are picked from those of all catchments (all, s, …) when they are asked for: a thousand issue times that are
    rolled out side by side never need them.
    """

    def __init__(self, every: Mapping[str, Tensor], index: Tensor | None = None) -> None:
        self.every, self.index = every, index

    @property
    def seeds(self) -> int:
        """Networks of a catchment."""
        return next(iter(self.every.values())).shape[1]

    def rows(self, at: Tensor) -> "Trained":
        """Those of the catchments at these positions."""
        return Trained(self.every, at if self.index is None else self.index[at])

    def __getitem__(self, name: str) -> Tensor:
        values = self.every[name]
        return (values if self.index is None else values[self.index]).flatten(0, 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.every)

    def __len__(self) -> int:
        return len(self.every)


def dense(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """W x + b."""
    return torch.baddbmm(w[f"{name}.bias"], w[f"{name}.weight"], x)


def gru(w: Mapping[str, Tensor], name: str, x: Tensor, h: Tensor) -> Tensor:
    """The next memory of a gated recurrent unit (Cho et al. 2014), gates in the order reset, update, candidate."""
    told = dense(w, name, x).chunk(3, 1)
    kept = torch.baddbmm(w[f"{name}.hidden_bias"], w[f"{name}.hidden_weight"], h).chunk(3, 1)
    reset, update = torch.sigmoid(told[0] + kept[0]), torch.sigmoid(told[1] + kept[1])
    return torch.lerp(torch.tanh(told[2] + reset * kept[2]), h, update)


def lstm(w: Mapping[str, Tensor], name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The next output and cell of a long short-term memory (Hochreiter & Schmidhuber 1997), gates in the order input,
    forget, output, candidate."""
    told = torch.baddbmm(dense(w, name, x) + w[f"{name}.hidden_bias"], w[f"{name}.hidden_weight"], h)
    k = h.shape[1]
    taken, kept, shown = torch.sigmoid(told[:, : 3 * k]).split(k, 1)
    c = torch.addcmul(kept * c, taken, torch.tanh(told[:, 3 * k :]))
    return shown * torch.tanh(c), c


def shared(value: Tensor, count: int) -> Tensor:
    """What belongs to each network (net, …) for each of `count` catchments (c, …)."""
    return value.repeat_interleave(count // value.shape[0], 0)


def stacked(x: Tensor, like: Tensor) -> Tensor:
    """(c, k) → (net, k, row), for weights `like`, of whose type it is."""
    return x.to(like).reshape(like.shape[0], -1, x.shape[-1]).contiguous().mT  # rounding depends on how memory lies


def unstacked(x: Tensor, like: Tensor) -> Tensor:
    """(net, k, row) → (c, k), of the type of a state `like`."""
    return x.mT.reshape(-1, x.shape[1]).to(like)


def triangle(entries: Tensor, n: int) -> Tensor:
    """The lower triangle (c, n, n) of its entries (c, n (n + 1) / 2), row by row."""
    rows, columns = torch.tril_indices(n, n)
    place = torch.zeros(entries.shape[-1], n * n).to(entries)
    place[torch.arange(entries.shape[-1]), n * rows + columns] = 1.0  # a product: indices are slow to differentiate
    return (entries @ place).unflatten(-1, (n, n))
