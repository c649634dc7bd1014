"""Small linear algebra on batches of matrices (catchment, n, n), safe for one bad catchment among good ones."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def transposed(a: Tensor) -> Tensor:
    """The matrices turned over."""
    return a.transpose(-1, -2)


def symmetric(p: Tensor) -> Tensor:
    """½ (P + Pᵀ)."""
    return p if p.shape[-1] == 1 else 0.5 * (p + transposed(p))


def product(a: Tensor, b: Tensor) -> Tensor:
    """A Bᵀ for A (c, n, q) and B (c, m, q); one observation needs no matrix product, slow for many small ones."""
    return a * transposed(b) if a.shape[-1] == 1 else a @ transposed(b)


def root(p: Tensor) -> Tensor:
    """A with A Aᵀ = P, lower triangular where P is positive definite; P (c, n, n) symmetric.

    Where Cholesky fails (a store that is certainly empty, rounding) the root is that of P with its negative eigenvalues
    set to zero. A catchment whose P is not finite gets NaN and disturbs no other.
    """
    lower, info = torch.linalg.cholesky_ex(p)
    if not info.any():
        return lower
    bad = info > 0
    failed = p[bad]
    finite = torch.isfinite(failed).all(-1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, failed, torch.eye(p.shape[-1]).to(p)))
    spectral = vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)
    return lower.index_put((bad,), torch.where(finite, spectral, torch.nan))


def square_root(m: Tensor) -> Tensor:
    """The symmetric S with S S = M for M (c, q, q) symmetric with no eigenvalue below one.

    Its derivative solves S dS + dS S = dM, so that repeated eigenvalues are harmless, which they are not in that of
    `eigh`: the last term, nothing but rounding in value, carries it. A catchment whose M is not finite gets NaN.
    """
    if m.shape[-1] == 1:
        return m.sqrt()
    finite = torch.isfinite(m).all(-1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, m.detach(), torch.eye(m.shape[-1]).to(m)))
    s = values.clamp(min=1.0).sqrt()
    rough = (vectors * s.unsqueeze(-2)) @ transposed(vectors)
    rest = transposed(vectors) @ (m - rough @ rough) @ vectors / (s.unsqueeze(-1) + s.unsqueeze(-2))
    return rough + vectors @ rest @ transposed(vectors)


def divided(c: Tensor, s: Tensor) -> Tensor:
    """C S⁻¹ for C (c, n, q) and S (c, q, q) symmetric positive definite; one observation needs no factorisation."""
    if s.shape[-1] == 1:
        return c / s
    return transposed(torch.cholesky_solve(transposed(c), torch.linalg.cholesky_ex(s)[0]))


def log_density(d: Tensor, s: Tensor, count: Tensor) -> Tensor:
    """−½ (count log 2π + log det S + dᵀ S⁻¹ d) for d (c, q), S (c, q, q): (c,)."""
    if s.shape[-1] == 1:
        determinant, square = torch.log(s[..., 0, 0]), d[..., 0] ** 2 / s[..., 0, 0]
    else:
        lower = torch.linalg.cholesky_ex(s)[0]
        determinant = 2.0 * torch.diagonal(lower, dim1=-2, dim2=-1).log().sum(-1)
        square = torch.linalg.solve_triangular(lower, d.unsqueeze(-1), upper=False).square().sum((-2, -1))
    return -0.5 * (count.to(d) * math.log(2.0 * math.pi) + determinant + square)  # a whole number would give float32


def joseph(p: Tensor, gain: Tensor, cross: Tensor, s: Tensor) -> Tensor:
    """P − K Cᵀ − C Kᵀ + K S Kᵀ: the Joseph form for any gain K, written with C = cov(x, y) and S = cov(y) + R.

    With C = P Hᵀ it is (I − K H) P (I − K H)ᵀ + K R Kᵀ multiplied out; a filter without an H needs no other form.
    """
    return symmetric(p + product(product(gain, s) - 2.0 * cross, gain))


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """∂f/∂x (c, rows, n) at x (c, 1, n) of a function of points with `rows` outputs, by one backward pass.

    Every output has a point of its own, so that the rows do not mix. What the function has bound must be ordinary
    tensors, not made in inference mode. Forward differentiation would be shorter and is twenty times slower. The slope
    can itself be differentiated where what the function gives depends on something that can.
    """
    again = torch.is_grad_enabled() and function(x).requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        points = x.expand(-1, rows, -1).clone()
        if not points.requires_grad:
            points.requires_grad_()
        total = torch.diagonal(function(points), dim1=-2, dim2=-1).sum()
        (slope,) = torch.autograd.grad(total, points, create_graph=again)
    return slope
