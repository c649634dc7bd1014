"""Training: exact resume, batches, gradients that are not finite, early stopping, files, losses."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hydroda.filters import kalmannet
from hydroda.filters.beliefs import Belief
from hydroda.filters.recipe import Filter
from hydroda.forecast import network_files
from hydroda.reproduction.constant_speed import drawn, system
from hydroda.teaching import losses, training
from hydroda.teaching.losses import Series, along
from hydroda.teaching.training import Plan, Task

PLAN = Plan(6, batch=4, window=5, lengths=((0, 5), (2, 12)), rate=(1e-2, 1e-3), every=2)
NETS = 2


def build(weights: Mapping[str, Tensor], series: Series) -> Filter:
    return kalmannet.kalmannet(system(series.parameters), weights=weights, normalised=False)


def start(seed: int = 0, nets: int = NETS) -> dict[str, Tensor]:
    scales = torch.tensor([[0.4, 0.05]]).repeat(nets, 1), torch.ones(nets, 1)
    return kalmannet.initial(*scales, range(seed, seed + nets))


def task(**changes: Any) -> Task:
    loss = along(losses.squared_error)
    series, held = drawn(40, 12, 1, steps=12).series, drawn(40, 4, 2, steps=12).series
    rows = torch.arange(12).repeat(NETS, 1)
    return replace(Task(build, loss, loss, series, rows, held, rows[:, :4]), **changes)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, one = training.train(start(), task(), PLAN, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(fraction: float, text: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        training.train(start(), task(), PLAN, tmp_path / "parts", stop)
    parts, two = training.train(start(), task(), PLAN, tmp_path / "parts")
    assert same(whole, parts)
    for name, value in vars(one).items():
        other = vars(two)[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    again, done = training.train(start(), task(), PLAN, tmp_path / "parts")
    assert same(again, parts) and done.iteration == 6
    assert one.updates.tolist() == [2 * 1 + 4 * 3] * NETS


def test_networks_are_judged_by_the_mean_of_their_weights_of_late(tmp_path, monkeypatch):
    """First the plain mean of all steps, then with a memory of four; with a memory of one the weights themselves."""
    seen: list[Tensor] = []
    step = training._adam

    def spied(state: training.State, *rest: Any) -> None:
        step(state, *rest)
        seen.append(state.weights)

    monkeypatch.setattr(training, "_adam", spied)
    _, state = training.train(start(), task(), replace(PLAN, memory=4), tmp_path / "mean")
    mean = seen[0]
    for k, weights in enumerate(seen[1:], 2):
        mean = mean + (weights - mean) / min(k, 4)
    torch.testing.assert_close(state.mean, mean)
    assert not torch.allclose(state.mean, state.weights)
    _, state = training.train(start(), task(), PLAN, tmp_path / "last")
    assert torch.equal(state.mean, state.weights)
    first = replace(PLAN, iterations=2, memory=4)  # after which there was one validation
    found, state = training.train(start(), task(), first, tmp_path / "first")
    assert torch.equal(state.best, state.mean) and not torch.equal(state.mean, state.weights)
    packed = torch.cat([tensor.flatten(1) for name, tensor in found.items() if not name.startswith("fixed.")], 1)
    assert torch.equal(packed, state.best)


def test_training_learns_and_tells_how_it_goes(tmp_path):
    told: list[str] = []
    plan = replace(PLAN, iterations=14)
    _, state = training.train(start(), task(), plan, tmp_path / "it", lambda fraction, text: told.append(text))
    scores = torch.tensor([score for _, _, score in state.history], dtype=torch.float64)
    assert (state.score < 0.7 * scores[0]).all() and len(state.history) == 7
    assert torch.equal(state.score, scores.min(0).values)
    assert all(word in told[-1] for word in ("loss", "validation", "best"))


def test_a_seed_decides_all_and_the_data_count(tmp_path):
    one, _ = training.train(start(), task(), PLAN, tmp_path / "a")
    two, _ = training.train(start(), task(), PLAN, tmp_path / "b")
    other, _ = training.train(start(), task(), replace(PLAN, seed=1), tmp_path / "c")
    assert same(one, two) and not same(one, other)
    for changed in (
        lambda: training.train(start(1), task(), PLAN, tmp_path / "a"),
        lambda: training.train(start(), task(held=drawn(40, 4, 3, steps=12).series), PLAN, tmp_path / "a"),
        lambda: training.train(start(), task(), replace(PLAN, clip=2.0), tmp_path / "a"),
    ):
        with pytest.raises(ValueError, match="another training"):
            changed()


def test_every_series_is_taken_once_before_any_is_twice():
    rows = torch.arange(100, 112).repeat(NETS, 1)
    taken = torch.stack([training._batch(rows, PLAN, i) for i in range(9)])
    for net in range(NETS):
        epochs = taken[:, net].reshape(3, 12)
        assert all(sorted(epoch.tolist()) == list(range(100, 112)) for epoch in epochs)
        assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(taken[:, 0], taken[:, 1])


def test_gradients_that_are_not_finite_are_left_out_and_counted(tmp_path):
    """Of one network of the stack: the other does not notice."""
    inner = along(losses.squared_error)

    def broken(made: Filter, belief: Belief, series: Series) -> tuple[Tensor, Belief]:
        loss, after = inner(made, belief, series)
        half = loss.shape[0] // 2
        return torch.cat((loss[:half], (loss[half:] * 0.0).sqrt())), after  # its derivative is 0/0

    found, state = training.train(start(), task(loss=broken), PLAN, tmp_path / "a")
    sound, _ = training.train(start(), task(), PLAN, tmp_path / "b")
    assert state.skipped.tolist() == [0, 14] and state.updates.tolist() == [14, 0]
    for name, tensor in found.items():
        assert torch.equal(tensor[0], sound[name][0])
        assert torch.equal(tensor[1], start()[name][1])


def test_training_ends_when_nothing_improves(tmp_path):
    def flat(made: Filter, belief: Belief, series: Series) -> tuple[Tensor, Belief]:
        return torch.ones(series.mean.shape[0], dtype=torch.float64), belief

    _, state = training.train(start(), task(score=flat), replace(PLAN, iterations=100, patience=3), tmp_path / "a")
    assert state.iteration == 2 * 4  # the first score is an improvement on none


def test_the_next_observation_teaches_where_nobody_knows_the_truth(tmp_path):
    unknown = replace(task().series, truth=torch.full_like(task().series.truth, torch.nan))
    blind = task(series=unknown, loss=along(losses.innovation))
    _, state = training.train(start(), blind, replace(PLAN, iterations=20), tmp_path / "a")
    first = state.history[0][2]
    assert (state.score < 0.8 * torch.tensor(first)).all() and not state.skipped.any()


def test_gradients_are_clipped_by_network():
    state = training._fresh(torch.zeros(2, 3))
    training._adam(state, torch.tensor([[300.0, 0.0, 400.0], [0.3, 0.0, 0.4]]), 1.0, Plan(1, clip=1.0))
    np.testing.assert_allclose(state.first / 0.1, [[0.6, 0.0, 0.8], [0.3, 0.0, 0.4]], rtol=1e-6)


def test_a_step_is_that_of_adam_with_decoupled_decay():
    begun = torch.randn(NETS, 5, generator=torch.Generator().manual_seed(1)).double()
    state, plan = training._fresh(begun), Plan(1, clip=1e9, decay=0.1)
    parameter = torch.nn.Parameter(begun.clone())
    theirs = torch.optim.AdamW([parameter], betas=training.BETAS, eps=training.EPSILON, weight_decay=0.1)
    for i in range(6):
        gradient = torch.randn(NETS, 5, generator=torch.Generator().manual_seed(2 + i)).double()
        rate = 0.01 / (1 + i)
        training._adam(state, gradient, rate, plan)
        theirs.param_groups[0]["lr"], parameter.grad = rate, gradient
        theirs.step()
        torch.testing.assert_close(state.weights, parameter.detach(), rtol=1e-12, atol=0.0)


def test_the_rate_falls_geometrically_and_every_iteration_draws_anew(tmp_path, monkeypatch):
    rates, seeds = [], []
    step = training._adam

    def spied(state: training.State, gradient: Tensor, rate: float, plan: Plan) -> None:
        rates.append(rate)
        step(state, gradient, rate, plan)

    def told(weights: Mapping[str, Tensor], series: Series) -> Filter:
        if torch.is_grad_enabled():
            seeds.append(series.seed)
        return build(weights, series)

    monkeypatch.setattr(training, "_adam", spied)
    training.train(start(), task(build=told), PLAN, tmp_path / "a")
    done = [0.0, 1.0] + [i + hour / 12 for i in (2, 3, 4, 5) for hour in (0, 5, 10)]  # iterations
    np.testing.assert_allclose(rates, [1e-2 * 10.0 ** (-share / 6) for share in done])
    assert seeds == [int(share) for share in done]


def test_losses_by_hand():
    """Of a run of one hour whose errors are 1 and −2, with variances 4 and 1 and a covariance of 1."""
    truth, cov = torch.tensor([[[5.0, 7.0]]]).double(), torch.tensor([[[[4.0, 1.0], [1.0, 1.0]]]]).double()
    mean, d = truth + torch.tensor([1.0, -2.0]), torch.tensor([[[3.0, -4.0]]]).double()
    nothing = torch.zeros(1, 1, 2).double()
    series = Series(nothing, cov[0], nothing, nothing, truth, truth)
    run = losses.Run(mean, cov, d, None)  # type: ignore[arg-type]
    assert losses.squared_error(run, series).item() == 5.0
    assert losses.innovation(run, series).item() == 25.0
    # P⁻¹ is (1, −1; −1, 4) / 3, its determinant 1 / 3; e eᵀ − P is (−3, −3; −3, 3)
    assert losses.surprise(run, series).item() == pytest.approx((1 + 4 + 16) / 3 + np.log(3.0))
    assert losses.second_moment(run, series).item() == pytest.approx(0.95 * 5.0 + 0.05 * 12.0)


def test_random_numbers_of_a_part_are_those_of_its_hours():
    series = replace(task().series, seed=3, hour=10)
    whole, part = series.noise(5), series.hours(2, 9).noise(3)
    assert torch.equal(whole.normal("model error", 4, 2), part.normal("model error", 4, 2))
    assert not torch.equal(whole.normal("model error", 4, 2), series.noise(3).normal("model error", 4, 2))


def test_weights_are_kept_with_what_they_were_made_of(tmp_path):
    weights, about = start(), {"filter": "kalmannet.kalmannet", "data": task().digest, "validation": [1.5]}
    network_files.save(tmp_path / "w.safetensors", weights, about)
    found, told = network_files.load(tmp_path / "w.safetensors")
    assert same(found, weights) and told == about


@pytest.mark.parametrize("kind", ["pickle", "torch", "checkpoint", "nothing"])
def test_what_is_not_weights_is_refused(tmp_path, kind):
    path: Path = tmp_path / "w"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "torch":
        torch.save(start(), path)
    elif kind == "checkpoint":
        training.train(start(), task(), replace(PLAN, iterations=2), path)
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"safetensors|format"):
        network_files.load(path)


def test_the_scores_of_series_are_those_of_their_rows():
    series = task().series
    part = series.rows(torch.tensor([3, 1])).hours(2, 7)
    assert torch.equal(part.observation, series.observation[2:7, [3, 1]]) and part.hour == 2
    assert part.digest != series.digest == task().series.digest
