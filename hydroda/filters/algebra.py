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

    Where Cholesky fails (a store that is certainly empty, rounding) the root is `square_root`, derivative included. A
    catchment whose P is not finite gets NaN and disturbs no other.
    """
    lower, info = torch.linalg.cholesky_ex(p)
    if not info.any():
        return lower
    bad = info > 0
    # the derivative of what failed is NaN even where nobody uses it
    lower = torch.linalg.cholesky_ex(torch.where(bad[:, None, None], torch.eye(p.shape[-1]).to(p), p))[0]
    return lower.index_put((bad,), square_root(p[bad]))


def square_root(m: Tensor) -> Tensor:
    """The symmetric S with S S = M for M (c, q, q) symmetric, negative eigenvalues set to zero.

    Its derivative solves S dS + dS S = dM, so that repeated eigenvalues are harmless, which they are not in that of
    `eigh`; between directions without variance, where none exists, it is zero: exact for changes that keep the rank.
    A catchment whose M is not finite gets NaN.
    """
    if m.shape[-1] == 1:
        none = m <= 0.0
        return torch.where(none, 0.0, torch.where(none, 1.0, m).sqrt())
    finite = torch.isfinite(m).all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, m.detach(), torch.eye(m.shape[-1]).to(m)))
    least = values[..., -1:].clamp(min=0.0) * torch.finfo(m.dtype).eps
    s = torch.where(values > least, values, 0.0).sqrt()
    total = s.unsqueeze(-1) + s.unsqueeze(-2)
    slope = torch.where(total > 0.0, 1.0 / torch.where(total > 0.0, total, 1.0), 0.0)
    change = vectors @ (transposed(vectors) @ m @ vectors * slope) @ transposed(vectors)
    return (vectors * s.unsqueeze(-2)) @ transposed(vectors) + (change - change.detach())  # zero, with a derivative


def triangle(columns: Tensor) -> Tensor:
    """The lower triangle L (…, n, n) with a non-negative diagonal and L Lᵀ = C Cᵀ, for columns C (…, n, k ≥ n)."""
    upper = torch.linalg.qr(transposed(columns))[1]
    signs = torch.where(torch.diagonal(upper, dim1=-2, dim2=-1) < 0.0, -1.0, 1.0).to(upper)
    return transposed(signs.unsqueeze(-1) * upper)


def shrunk(rows: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """(I + Yᵀ R⁻¹ Y)^(−½) A for rows A (…, k, n), Y (…, q, k), R (…, q, q): anomalies after an observation.

    Computed in the space of the observations, of which there are fewer than rows, and without R⁻¹, because R is zero
    where the noise of a gauge is a state: with S = Y Yᵀ + R = C Cᵀ, Z = C⁻¹ Y and W = C⁻¹ R C⁻ᵀ the root is
    I − Zᵀ (I + W^½)⁻¹ Z.
    """
    c = torch.linalg.cholesky_ex(y @ transposed(y) + r)[0]
    z, half = (torch.linalg.solve_triangular(c, x, upper=False) for x in (y, r))
    w = symmetric(torch.linalg.solve_triangular(c, transposed(half), upper=False))
    lower = torch.linalg.cholesky_ex(square_root(w) + torch.eye(w.shape[-1]).to(w))[0]
    return rows - transposed(z) @ torch.cholesky_solve(z @ rows, lower)


def deviations(columns: Tensor) -> Tensor:
    """Standard deviations (c, n, 1) of the covariance C Cᵀ, one where they are zero: what makes components alike."""
    variance = columns.square().sum(-1, keepdim=True)
    return torch.where(variance > 0.0, variance, 1.0).sqrt()


def split(columns: Tensor, rank: int, scaled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The leading directions (c, n, min(rank, n)) of C Cᵀ for columns C (c, n, k), a root (c, n, n) of the rest, and
    the share (c,) of the variance the rest has.

    `scaled`: every component is measured in its own standard deviations, or the unit of a store would decide what is
    kept. The root of the rest is the symmetric one, which does not depend on the signs of directions.
    """
    n = columns.shape[-2]
    d = deviations(columns) if scaled else torch.ones_like(columns[..., :1])
    w = columns / d
    p = w @ transposed(w)
    finite = torch.isfinite(p).all(-1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, p, torch.eye(n).to(p)))
    positive = values > values[..., -1:] * torch.finfo(p.dtype).eps
    size = torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0).unsqueeze(-2)
    kept, left = vectors[..., -rank:] * size[..., -rank:], vectors[..., :-rank]
    rest = (left * size[..., :-rank]) @ transposed(left)
    total = torch.where(positive, values, 0.0)
    share = total[..., :-rank].sum(-1) / total.sum(-1).clamp(min=torch.finfo(p.dtype).tiny)
    return d * torch.where(finite, kept, torch.nan), d * torch.where(finite, rest, torch.nan), share


def within(basis: Tensor, columns: Tensor, scaled: bool, forgetting: float = 1.0) -> Tensor:
    """A root (c, n, r) of L Lᵀ / ρ + Π E Eᵀ Πᵀ for a basis L (c, n, r), columns E (c, n, j), Π the projection on the
    span of L, orthogonal for components as they are or, if `scaled`, in their own standard deviations."""
    every = torch.cat((basis / math.sqrt(forgetting), columns), -1)
    d = deviations(every) if scaled else torch.ones_like(every[..., :1])
    w = torch.linalg.qr(basis / d)[0]
    return d * (w @ triangle(transposed(w) @ (every / d)))


def centring(members: Tensor) -> Tensor:
    """Ω̂ (c, N, N − 1) for members (c, N, n): orthonormal columns that each sum to zero (Nerger et al. 2012)."""
    count = members.shape[1]
    c = 1.0 / (count * (count**-0.5 + 1.0))
    top = torch.eye(count - 1, dtype=members.dtype) - c
    basis = torch.cat((top, torch.full((1, count - 1), -(count**-0.5), dtype=members.dtype)))
    return basis.expand(members.shape[0], -1, -1)  # a product for each catchment, or rows would depend on each other


def divided(c: Tensor, s: Tensor) -> Tensor:
    """C S⁻¹ for C (c, n, q) and S (c, q, q) symmetric positive definite; one observation needs no factorisation."""
    if s.shape[-1] == 1:
        return c / s
    return transposed(torch.cholesky_solve(transposed(c), torch.linalg.cholesky_ex(s)[0]))


def log_density(d: Tensor, s: Tensor, count: Tensor) -> Tensor:
    """−½ (count log 2π + log det S + dᵀ S⁻¹ d) for d (c, k, q), S (c, q, q), count (c,): (c, k)."""
    if s.shape[-1] == 1:
        determinant, square = torch.log(s[..., 0]), d[..., 0] ** 2 / s[..., 0]
    else:
        lower = torch.linalg.cholesky_ex(s)[0]
        determinant = 2.0 * torch.diagonal(lower, dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        square = torch.linalg.solve_triangular(lower, transposed(d), upper=False).square().sum(-2)
    number = count.unsqueeze(-1).to(d)  # whole numbers would give float32
    return -0.5 * (number * math.log(2.0 * math.pi) + determinant + square)


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
