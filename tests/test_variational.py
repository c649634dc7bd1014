"""3D-Var and the linear analyses: each is the other where theory says so, and a minimum that scipy finds too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize
from test_filters import Twin, close, gauges, river, run, same, start, with_gaps

from hydroda.filters import linear
from hydroda.filters.algebra import jacobian
from hydroda.filters.beliefs import Gaussian, named
from hydroda.filters.kinds import built
from hydroda.filters.noise import Noise, address
from hydroda.filters.recipe import Hour, System
from hydroda.filters.variational import least_squares, minimum_variance, three_d_var


def still(system: System) -> System:
    """The same gauges on a state that neither moves nor errs: there a filter's P is B."""
    return replace(system, move=lambda x, u: x, model_error=lambda mean: torch.zeros_like(mean).mT)


def random_tensor(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def covariance(seed: int, c: int, n: int) -> torch.Tensor:
    half = random_tensor(seed, c, n, n)
    return half @ half.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)


def problem(c: int = 6, curved: float = 0.1) -> tuple[System, Gaussian, Hour]:
    """Four stores near empty, two gauges that see more, and less, than they expect."""
    h, b, r = random_tensor(5, c, 2, 4).abs(), covariance(6, c, 4), covariance(7, c, 2)
    system = System(
        lambda x, u: x,
        lambda x: x @ h.mT + curved * (x @ h.mT).square(),
        lambda mean: torch.zeros_like(mean).mT,
        lambda y: r,
    )
    background = random_tensor(8, c, 1, 4).abs() * 0.5
    y = system.see(background)[:, 0] + 2.0 * random_tensor(9, c, 2)
    noise = Noise(0, np.array([address(str(i)) for i in range(c)]), np.full(c, 500_000))
    return system, Gaussian(background, b), Hour(torch.zeros(c, 1, 1), y, noise)


def cost(system: System, belief: Gaussian, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """J (c,) at x (c, 1, n)."""
    e, d = x - belief.mean, y.unsqueeze(1) - system.see(x)
    r = system.observation_error(y)
    return 0.5 * ((e @ belief.cov.inverse() @ e.mT) + (d @ r.inverse() @ d.mT))[:, 0, 0]


def scipy_minimum(system: System, belief: Gaussian, y: torch.Tensor, i: int, bounds=None) -> np.ndarray:
    """The minimum of J of one catchment, from the background."""

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        points = belief.mean.clone()
        points[i, 0] = torch.from_numpy(x)
        points.requires_grad_()
        value = cost(system, belief, y, points)[i]
        (slope,) = torch.autograd.grad(value, points)
        return float(value.detach()), slope[i, 0].numpy()

    method = "BFGS" if bounds is None else "L-BFGS-B"
    options = {"gtol": 1e-10} if bounds is None else {"ftol": 1e-16, "gtol": 1e-10}
    x0 = belief.mean[i, 0].numpy()
    return minimize(both, x0, jac=True, method=method, bounds=bounds and [bounds] * x0.size, options=options).x


# --- the linear analyses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 4])
def test_on_linear_gauges_3d_var_is_the_kalman_filter_is_the_information_form(iterations):
    of = gauges()
    system = still(of.system)
    var = three_d_var(system, iterations=iterations, bounded=False)
    (found, update), (expected, kalman_update) = (
        made.step(start(made, of), of.hour(0)) for made in (var, linear.kalman(system))
    )
    y, h = of.observation[0], of.parts[1]
    mean, cov = minimum_variance(of.mean, of.cov, h, y, system.observation_error(y))
    close(found.mean, expected.mean, 1e-12)
    close(mean, expected.mean, 1e-12)
    close(cov, expected.cov, 1e-12)
    close(update.log_likelihood, kalman_update.log_likelihood, 1e-12)
    assert (found.mean - of.mean).abs().min() > 1e-4


def test_least_squares_is_the_limit_of_a_background_that_knows_nothing():
    c, n, q = 4, 3, 5
    h, y, r, cov = random_tensor(1, c, q, n), random_tensor(2, c, q), covariance(3, c, q), covariance(4, c, n)
    mean = torch.zeros(c, 1, n, dtype=torch.float64)
    x, p = least_squares(h, y, r)
    for i in range(c):
        w = np.linalg.inv(r[i].numpy())
        expected = np.linalg.inv(h[i].numpy().T @ w @ h[i].numpy())
        close(p[i], expected, 1e-12)
        close(x[i, 0], expected @ h[i].numpy().T @ w @ y[i].numpy(), 1e-12)
    system = System(lambda x, u: x, lambda x: x @ h.mT, lambda mean: torch.zeros_like(mean).mT, lambda y: r)
    hour = Hour(torch.zeros(c, 1, 1), y, Noise(0, np.arange(c), np.full(c, 500_000)))
    made, errors = three_d_var(system, bounded=False), []
    for scale in (1e2, 1e4, 1e6):
        vague, uncertain = minimum_variance(mean, scale * cov, h, y, r)
        found, _ = made.step(made.init(mean, scale * cov, hour.noise), hour)
        errors.append([float((a - b).abs().max()) for a, b in ((vague, x), (uncertain, p), (found.mean, x))])
    ratio = np.array(errors[:-1]) / np.array(errors[1:])
    np.testing.assert_allclose(ratio, 100.0, rtol=0.1)  # falls as 1 / B


def test_what_observations_do_not_determine_is_refused_by_catchment():
    h, y, r = random_tensor(1, 4, 5, 3), random_tensor(2, 4, 5), covariance(3, 4, 5)
    h[1, :, 2] = 2.0 * h[1, :, 0]
    h[3, :, 1] = 0.0
    with pytest.raises(ValueError, match=r"all 3 states \(catchment 1, 3\)"):
        least_squares(h, y, r)
    with pytest.raises(ValueError, match="catchment 0, 1, 2, 3"):
        least_squares(h[:, :2], y[:, :2], r[:, :2, :2])
    cov = covariance(4, 4, 3)
    cov[2, :, 0], cov[2, 0] = 0.0, 0.0
    with pytest.raises(ValueError, match=r"not positive definite \(catchment 2\)"):
        minimum_variance(y[:, None, :3], cov, h, y, r)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_a_component_does_not_decide_whether_it_is_determined(unit):
    h, y, r = random_tensor(1, 4, 5, 3), random_tensor(2, 4, 5), covariance(3, 4, 5)
    scale = torch.tensor([1.0, unit, 1.0], dtype=torch.float64)
    close(least_squares(h * scale, y, r)[0] * scale, least_squares(h, y, r)[0], 1e-9)


# --- Gauss-Newton ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [gauges(bent=0.3), river()], ids=["gauges", "river"])
def test_the_first_iteration_is_the_extended_kalman_analysis(of):
    system = still(of.system)
    var, ekf = three_d_var(system, iterations=1, bounded=False), linear.extended(system)
    (found, update), (expected, other) = (made.step(start(made, of), of.hour(0)) for made in (var, ekf))
    close(found.mean, expected.mean, 1e-12)
    close(update.gain, other.gain, 1e-12)
    more, again = three_d_var(system, iterations=3, bounded=False).step(start(var, of), of.hour(0))
    bent = of.mean.shape[-1] == 3  # the river sees its last store only, by a constant rate: nothing is left to iterate
    assert ((more.mean - found.mean).abs().max() > 1e-4) == bent
    assert torch.equal(again.shift, update.shift)  # what Update tells is of the first


def test_the_second_iteration_is_that_of_the_formula():
    system, belief, hour = problem()
    found, _ = three_d_var(system, iterations=2, bounded=False).step(belief, hour)
    first, _ = three_d_var(system, iterations=1, bounded=False).step(belief, hour)
    value, h = system.see(first.mean)[:, 0].numpy(), jacobian(system.see, first.mean, 2).numpy()
    r, y, b = system.observation_error(hour.observation).numpy(), hour.observation.numpy(), belief.cov.numpy()
    for i in range(6):
        gain = b[i] @ h[i].T @ np.linalg.inv(h[i] @ b[i] @ h[i].T + r[i])
        step = gain @ (y[i] - value[i] + h[i] @ (first.mean - belief.mean)[i, 0].numpy())
        close(found.mean[i, 0], belief.mean[i, 0].numpy() + step, 1e-12)


def test_converged_it_is_the_minimum_of_the_cost():
    system, belief, hour = problem()
    y = hour.observation
    found, _ = three_d_var(system, iterations=60, bounded=False).step(belief, hour)
    x = found.mean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(system, belief, y, x).sum(), x)
    assert slope.abs().max() < 1e-8
    for i in range(6):
        close(found.mean[i, 0], scipy_minimum(system, belief, y, i), 1e-6)
    first, _ = three_d_var(system, iterations=1, bounded=False).step(belief, hour)
    assert (cost(system, belief, y, first.mean) - cost(system, belief, y, found.mean) > 1e-3).any()


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_within_bounds_it_is_the_minimum_of_the_cost():
    system, belief, hour = problem()
    free, _ = three_d_var(system, iterations=60, bounded=False).step(belief, hour)
    found, _ = three_d_var(system, iterations=60).step(belief, hour)
    assert 0 < (free.mean < 0).any(-1).sum() < 6  # the bound acts in some
    assert (found.mean >= 0).all() and (found.mean == 0).any()
    for i in range(6):
        close(found.mean[i, 0], scipy_minimum(system, belief, hour.observation, i, (0.0, None)), 1e-6)
    inside = (free.mean >= 0).all(-1)[:, 0]
    assert torch.equal(found.mean[inside], free.mean[inside])


def test_bounds_are_exact_for_linear_gauges():
    """Least squares with bounds, by another method; many a bound that was tried first must be taken away again."""
    c, n = 300, 5
    h, b, r = random_tensor(1, c, 2, n), covariance(2, c, n), covariance(3, c, 2)
    mean, y = 0.3 * random_tensor(4, c, 1, n).abs(), 3.0 * random_tensor(5, c, 2)
    system = System(lambda x, u: x, lambda x: x @ h.mT, lambda mean: torch.zeros_like(mean).mT, lambda y: r)
    hour = Hour(torch.zeros(c, 1, 1), y, Noise(0, np.arange(c), np.full(c, 500_000)))
    found, _ = three_d_var(system, iterations=1).step(Gaussian(mean, b), hour)
    count = []
    for i in range(c):
        whiten_b, whiten_r = (np.linalg.inv(np.linalg.cholesky(a[i].numpy())) for a in (b, r))
        rows = np.concatenate((whiten_b, whiten_r @ h[i].numpy()))
        target = np.concatenate((whiten_b @ mean[i, 0].numpy(), whiten_r @ y[i].numpy()))
        expected = lsq_linear(rows, target, (0, np.inf), method="bvls", tol=1e-14).x
        close(found.mean[i, 0], expected, 1e-9, scale=1.0)
        count.append(int((found.mean[i, 0] == 0).sum()))
    assert set(count) >= {0, 1, 2, 3}


def test_only_components_named_are_bounded():
    system, belief, hour = problem()
    free, _ = three_d_var(system, iterations=60, bounded=False).step(belief, hour)
    some = torch.tensor([True, False, True, False])
    found, _ = three_d_var(system, iterations=60, bounded=some.tolist()).step(belief, hour)
    assert (free.mean[..., some] < 0).any() and (free.mean[..., ~some] < 0).any()
    assert (found.mean[..., some] >= 0).all() and (found.mean[..., ~some] < 0).any()
    with pytest.raises(ValueError, match="names 3 components, there are 4"):
        three_d_var(system, bounded=[True] * 3).step(belief, hour)


def test_a_covariance_without_inverse_is_no_obstacle():
    """A store that is certainly empty, or said to be less than that; two stores of which one is twice the other."""
    system, belief, hour = problem()
    half = torch.linalg.cholesky(belief.cov)
    half[:, 0] = 0.0
    half[:, 2] = 2.0 * half[:, 1]
    mean = belief.mean.clone()
    mean[..., 0] = 0.0
    mean[2, 0, 0] = -0.01
    mean[..., 2] = 2.0 * mean[..., 1]
    found, _ = three_d_var(system, iterations=60).step(Gaussian(mean, half @ half.mT), hour)
    free, _ = three_d_var(system, iterations=60, bounded=False).step(Gaussian(mean, half @ half.mT), hour)
    assert (free.mean[..., 1] < 0).any()
    assert torch.isfinite(found.mean).all() and (found.mean >= 0).all()
    close(found.mean[..., 0], torch.zeros(6, 1), 1e-12, scale=1.0)
    close(found.mean[..., 2], 2.0 * found.mean[..., 1], 1e-9)


def test_gradients_are_finite_differences_where_bounds_act():
    system, belief, hour = problem()
    made = three_d_var(system)
    weights = random_tensor(10, 6, 1, 4)

    def value(mean: torch.Tensor) -> torch.Tensor:
        return (made.step(Gaussian(mean, belief.cov), hour)[0].mean * weights).sum((1, 2))

    mean = belief.mean.clone().requires_grad_()
    value(mean).sum().backward()
    assert mean.grad is not None and (made.step(belief, hour)[0].mean == 0).any()
    for i in range(4):
        d = torch.zeros_like(belief.mean)
        d[..., i] = 1e-6
        slope = (value(belief.mean + d) - value(belief.mean - d)) / 2e-6
        np.testing.assert_allclose(mean.grad[:, 0, i], slope, rtol=1e-5, atol=1e-6)


# --- the laws of all filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("bounded", [False, True])
def test_a_partly_missing_observation_is_observing_the_rest(kept, bounded):
    system, belief, hour = problem()
    error = system.observation_error(hour.observation)[:, kept : kept + 1, kept : kept + 1]
    part = replace(system, see=lambda x: system.see(x)[..., kept : kept + 1], observation_error=lambda y: error)
    partly = torch.full_like(hour.observation, torch.nan)
    partly[:, kept] = hour.observation[:, kept]
    found, update = three_d_var(system, bounded=bounded).step(belief, hour._replace(observation=partly))
    only = hour._replace(observation=hour.observation[:, kept : kept + 1])
    expected, other = three_d_var(part, bounded=bounded).step(belief, only)
    close(found.mean, expected.mean, 1e-12)
    close(update.log_likelihood, other.log_likelihood, 1e-12)
    assert bounded is bool((found.mean == 0).any())


def stores(of: Twin) -> dict:
    """Bounds for the stores of the forecast model, whose last state is a rain error."""
    return {"bounded": [True] * (of.mean.shape[-1] - 1) + [False]}


@pytest.mark.parametrize("of", [gauges(bent=0.1), river()], ids=["gauges", "river"])
def test_no_observation_is_a_forecast_bit_for_bit_and_the_covariance_never_changes(of):
    made = three_d_var(of.system, **stores(of))
    for belief, _ in run(made, with_gaps(of)):
        assert torch.equal(belief.cov, of.cov)
    nothing = torch.full_like(of.observation[0], torch.nan)
    after, _ = made.step(belief, of.hour(3, nothing))
    assert same(after, made.forecast(belief, of.hour(3)))
    assert torch.equal(after.mean, of.system.move(belief.mean, of.forcing[3].unsqueeze(1)))
    nothing[1] = of.observation[3, 1]
    some, _ = made.step(belief, of.hour(3, nothing))
    assert (some.mean == after.mean).all(-1)[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("of", [gauges(bent=0.1), river()], ids=["gauges", "river"])
def test_one_run_is_two_runs_with_a_file_between(of):
    made = three_d_var(of.system, **stores(of))
    whole = run(made, of)
    first = run(made, of, hours=range(5))[-1][0]
    again = built("Gaussian", {path: torch.from_numpy(t.numpy().copy()) for path, t in named(first).items()})
    for (a, _), (b, _) in zip(
        whole[5:], run(three_d_var(of.system, **stores(of)), of, again, range(5, 12)), strict=True
    ):
        assert same(a, b)


@pytest.mark.parametrize("of", [gauges(bent=0.1), river()], ids=["gauges", "river"])
def test_a_catchment_alone_is_the_same_among_others_and_a_broken_one_disturbs_none(of):
    of = with_gaps(of)
    made = three_d_var(of.system, **stores(of))
    among = run(made, of)
    for i in range(4):
        one = of.rows([i])
        for (a, _), (b, _) in zip(among, run(three_d_var(one.system, **stores(of)), one), strict=True):
            close(b.mean[0], a.mean[i], 1e-12)
    mean, cov = of.mean.clone(), of.cov.clone()
    mean[1], cov[2] = torch.nan, -cov[2]
    for (a, _), (b, _) in zip(among, run(made, of, Gaussian(mean, cov)), strict=True):
        close(b.mean[[0, 3]], a.mean[[0, 3]], 1e-12)


def test_it_needs_no_gradients_and_an_iteration():
    system, belief, hour = problem()
    made = three_d_var(system)
    found, _ = made.step(belief, hour)
    assert not found.mean.requires_grad
    with torch.inference_mode():
        assert same(made.step(belief, hour)[0], found)
    with pytest.raises(ValueError, match="0 iterations"):
        three_d_var(system, iterations=0)


def test_the_state_follows_the_river_better_than_without_observations():
    of = river(hours=12)
    made = three_d_var(of.system, **stores(of))
    x, analysed, unaided = of.mean, [], []
    for k, (belief, _) in enumerate(run(made, of)):
        x = of.system.move(x, of.forcing[k].unsqueeze(1))
        y = of.observation[k]
        analysed.append((of.system.see(belief.mean)[:, 0] - y).square())
        unaided.append((of.system.see(x)[:, 0] - y).square())
    assert torch.stack(analysed).mean() < 0.5 * torch.stack(unaided).mean()
