"""Training of learned gains: one loop for all networks, which stops and goes on as if it had never stopped.

Networks are trained side by side in a stack (see `filters.networks`), each with series, gradient norm and best weights
of its own; a filter is run as in operation, and truncated back-propagation through time goes through its steps.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.beliefs import mapped
from hydroda.filters.networks import FIXED
from hydroda.filters.recipe import Filter
from hydroda.forecast import network_files
from hydroda.progress import Progress, silent
from hydroda.storage import files
from hydroda.teaching.losses import Objective, Series, begin

CHECKPOINT = "hydroda training 2"  # format
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam (Kingma & Ba 2015)
Build = Callable[[Mapping[str, Tensor], Series], Filter]  # the filter of weights, for catchments of these parameters


@dataclass(frozen=True)
class Task:
    """What is learned from what: a filter of weights, the loss of a window, the score of a run (the lower the better),
    and which rows of the series each network has for training and for validation (net, count)."""

    build: Build
    loss: Objective
    score: Objective
    series: Series
    rows: Tensor
    held: Series
    held_rows: Tensor

    @property
    def digest(self) -> str:
        """SHA-256 of all series and of which network has which."""
        total = hashlib.sha256(f"{self.series.digest}{self.held.digest}".encode())
        for rows in (self.rows, self.held_rows):
            total.update(rows.contiguous().numpy().tobytes())
        return total.hexdigest()


@dataclass(frozen=True)
class Plan:
    """How to train.

    `iterations` each take `batch` series of every network; from iteration `lengths[i][0]` on `lengths[i][1]` hours of
    each, in windows of `window` hours with a step of Adam after each, at a rate that falls geometrically. Gradients of
    norm above `clip` are shortened, those that are not finite skipped. Every `every` iterations the networks are run on
    the validation series; training ends when none improved `patience` times. Networks are judged, and kept, by the mean
    of their weights over some `memory` iterations, which hops about less than they do (Polyak & Juditsky 1992).
    """

    iterations: int
    batch: int = 64
    window: int = 50
    lengths: tuple[tuple[int, int], ...] = ((0, 50),)
    rate: tuple[float, float] = (1e-3, 1e-4)
    decay: float = 0.0
    clip: float = 1.0
    every: int = 10
    patience: int = 10_000
    memory: int = 1
    seed: int = 0

    def length(self, iteration: int) -> int:
        """Hours of a series."""
        return [hours for start, hours in self.lengths if start <= iteration][-1]


@dataclass
class State:
    """Where training is: weights in a row for each network (net, p), their mean of late, the moments of Adam, the best
    means so far, and by network updates made, updates skipped, best score and validations since; history of (iteration,
    loss, score)."""

    weights: Tensor
    mean: Tensor
    first: Tensor
    second: Tensor
    best: Tensor
    updates: Tensor
    skipped: Tensor
    score: Tensor
    waited: Tensor
    iteration: int = 0
    history: list[Any] = field(default_factory=list)


def train(
    start: Mapping[str, Tensor],
    task: Task,
    plan: Plan,
    path: Path,
    progress: Progress = silent,
) -> tuple[dict[str, Tensor], State]:
    """The best weights of each network on its validation series, and how it went; `path` is the checkpoint.

    What a checkpoint of the same training holds is not done again. Raises ValueError for one of another training.
    """
    fixed = {name: tensor for name, tensor in start.items() if name.startswith(FIXED)}
    shapes = {name: tensor.shape for name, tensor in start.items() if name not in fixed}

    def unpacked(packed: Tensor) -> dict[str, Tensor]:
        parts = packed.split([shape[1:].numel() for shape in shapes.values()], 1)
        return fixed | {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    label = _label(start, task, plan)
    state = _restored(path, label) if path.exists() else _fresh(torch.cat([start[n].flatten(1) for n in shapes], 1))
    while state.iteration < plan.iterations and (state.waited < plan.patience).any():
        loss = _iteration(state, task, plan, unpacked)
        if state.iteration % plan.every == 0 or state.iteration == plan.iterations:
            score = _validated(state, task, unpacked)
            state.history.append([state.iteration, loss.tolist(), score.tolist()])
            files.replace(path, _written(state, label))
            progress(state.iteration / plan.iterations, _told(state, loss, score))
    return unpacked(state.best), state


def _iteration(state: State, task: Task, plan: Plan, unpacked: Callable[[Tensor], dict[str, Tensor]]) -> Tensor:
    """One batch of series, window by window; the mean loss of each network."""
    length, nets = plan.length(state.iteration), state.weights.shape[0]
    index = _batch(task.rows, plan, state.iteration)
    series = replace(task.series.rows(index.flatten()), seed=state.iteration).hours(0, length)
    belief, losses = None, []
    for hour in range(0, length, plan.window):
        packed = state.weights.clone().requires_grad_()
        made = task.build(unpacked(packed), series)
        belief = begin(made, series) if belief is None else mapped(Tensor.detach, belief)
        loss, belief = task.loss(made, belief, series.hours(hour, hour + plan.window))
        each = loss.reshape(nets, -1).mean(1)
        (gradient,) = torch.autograd.grad(each.sum(), packed)
        done = (state.iteration + hour / length) / plan.iterations
        _adam(state, gradient, plan.rate[0] * (plan.rate[1] / plan.rate[0]) ** done, plan)
        losses.append(each.detach())
    state.iteration += 1
    return torch.stack(losses).mean(0)


def _adam(state: State, gradient: Tensor, rate: float, plan: Plan) -> None:
    """A step of Adam with decoupled decay for networks whose gradient is finite; others are left and counted."""
    norm = gradient.norm(dim=1)
    fine = torch.isfinite(norm)
    gradient = gradient * (plan.clip / norm.clamp(min=plan.clip)).unsqueeze(1)
    state.updates, state.skipped = state.updates + fine, state.skipped + ~fine
    first = BETAS[0] * state.first + (1.0 - BETAS[0]) * gradient
    second = BETAS[1] * state.second + (1.0 - BETAS[1]) * gradient.square()
    one, two = (1.0 - beta ** state.updates.to(first).unsqueeze(1) for beta in BETAS)
    step = rate * (first / one / ((second / two).sqrt() + EPSILON) + plan.decay * state.weights)
    take = fine.unsqueeze(1)
    state.first, state.second = torch.where(take, first, state.first), torch.where(take, second, state.second)
    state.weights = torch.where(take, state.weights - step, state.weights)
    share = 1.0 / state.updates.clamp(1, plan.memory).to(first).unsqueeze(1)
    state.mean = torch.lerp(state.mean, state.weights, share)


def _batch(rows: Tensor, plan: Plan, iteration: int) -> Tensor:
    """Which series (net, batch) an iteration takes: every series once before any twice, in an order of each network."""
    count = rows.shape[1] // plan.batch
    epoch, place = divmod(iteration, count)
    orders = [np.random.default_rng((plan.seed, net, epoch)).permutation(rows.shape[1]) for net in range(len(rows))]
    taken = torch.from_numpy(np.stack(orders))[:, place * plan.batch : (place + 1) * plan.batch]
    return rows.gather(1, taken)


def _validated(state: State, task: Task, unpacked: Callable[[Tensor], dict[str, Tensor]]) -> Tensor:
    """The score (net,) of the mean weights, which become the best where it is."""
    with torch.no_grad():
        series = task.held.rows(task.held_rows.flatten())
        made = task.build(unpacked(state.mean), series)
        loss, _ = task.score(made, begin(made, series), series)
    score = loss.reshape(state.weights.shape[0], -1).mean(1)
    better = score < state.score
    state.best = torch.where(better.unsqueeze(1), state.mean, state.best)
    state.score = torch.where(better, score, state.score)
    state.waited = torch.where(better, 0, state.waited + 1)
    return score


def _fresh(packed: Tensor) -> State:
    zero, count = torch.zeros_like(packed), torch.zeros(packed.shape[0], dtype=torch.long)
    infinite = torch.full(count.shape, torch.inf, dtype=torch.float64)
    return State(packed, packed, zero, zero, packed, count, count.clone(), infinite, count.clone())


def _label(start: Mapping[str, Tensor], task: Task, plan: Plan) -> dict[str, Any]:
    """What a checkpoint must have been made of."""
    begun = hashlib.sha256()
    for tensor in start.values():
        begun.update(tensor.contiguous().numpy().tobytes())
    return {"plan": json.loads(json.dumps(asdict(plan))), "data": task.digest, "start": begun.hexdigest()}


def _written(state: State, label: Mapping[str, Any]) -> bytes:
    tensors = {name: value for name, value in vars(state).items() if isinstance(value, Tensor)}
    return network_files.packed(
        tensors, {"format": CHECKPOINT, "iteration": state.iteration, "history": state.history, **label}
    )


def _restored(path: Path, label: Mapping[str, Any]) -> State:
    tensors, about = network_files.unpacked(path, CHECKPOINT)
    state = State(**tensors, iteration=about.pop("iteration"), history=about.pop("history"))
    if about != label:
        wrong = [name for name in label if about.get(name) != label[name]]
        raise ValueError(f"{path} is of another training ({', '.join(wrong)} differ); remove it to begin again")
    return state


def _told(state: State, loss: Tensor, score: Tensor) -> str:
    skipped = f", {int(state.skipped.sum())} gradients skipped" if state.skipped.any() else ""
    numbers = (float(x.mean()) for x in (loss, score, state.score))
    return "loss {:.4g}, validation {:.4g}, best {:.4g}".format(*numbers) + skipped
