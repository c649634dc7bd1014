"""Small mistakes in the shared code of the filters, each of which the laws must notice.

    python tests/mutants.py [N …]

copies the package, makes one mistake at a time and runs tests until the first fails. A mutant that survives is printed
and makes the exit status 1. Takes an hour; it is no test of its own because it runs the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("tests/test_filters.py", "tests/test_papers.py", "tests/test_families.py", "tests/test_modifiers.py")
MUTANTS = (  # file in hydroda/filters, what stands there, the mistake
    ("algebra.py", "product(product(gain, s) - 2.0 * cross, gain)", "product(product(gain, s) - cross, gain)"),
    ("algebra.py", "return p if p.shape[-1] == 1 else 0.5 * (p + transposed(p))", "return 0.505 * (p + transposed(p))"),
    (
        "algebra.py",
        "square_root(w) + torch.eye(w.shape[-1]).to(w)",
        "square_root(w) + 1.01 * torch.eye(w.shape[-1]).to(w)",
    ),
    ("algebra.py", "torch.cholesky_solve(z @ rows, lower)", "0.5 * torch.cholesky_solve(z @ rows, lower)"),
    ("algebra.py", "(transposed(vectors) @ m @ vectors * slope)", "(transposed(vectors) @ m @ vectors)"),
    ("algebra.py", "torch.where(bad[:, None, None], torch.eye(p.shape[-1]).to(p), p)", "p"),
    (
        "algebra.py",
        "torch.where(torch.diagonal(upper, dim1=-2, dim2=-1) < 0.0, -1.0, 1.0)",
        "1.0 + 0.0 * torch.diagonal(upper, dim1=-2, dim2=-1)",
    ),
    ("algebra.py", "kept, left = vectors[..., -rank:]", "kept, left = vectors[..., :rank]"),
    ("algebra.py", "basis / math.sqrt(forgetting)", "basis * math.sqrt(forgetting)"),
    ("algebra.py", "math.log(2.0 * math.pi)", "math.log(math.pi)"),
    ("algebra.py", "torch.where(values > least, values, 0.0).sqrt()", "values.abs().sqrt()"),
    ("algebra.py", "create_graph=again", "create_graph=False"),
    ("recipe.py", "cross=torch.where(seen.unsqueeze(-2), predicted.cross, 0.0)", "cross=predicted.cross"),
    ("recipe.py", "cov=torch.where(pairs, predicted.cov, 0.0)", "cov=predicted.cov"),
    ("recipe.py", "return predicted, torch.where(pairs, r, torch.eye(seen.shape[-1]).to(r))", "return predicted, r"),
    ("recipe.py", "torch.where(seen, hour.observation, expected.mean)", "torch.where(seen, hour.observation, 0.0)"),
    ("recipe.py", "r = r * (scale.unsqueeze(-1) * scale.unsqueeze(-2))", "r = r * scale.unsqueeze(-1)"),
    ("recipe.py", "posterior if some.all() else chosen(some, posterior, prior)", "posterior"),
    ("recipe.py", "scale = 1.0 / math.sqrt(members.shape[1] - 1)", "scale = 1.0 / math.sqrt(members.shape[1])"),
    ("beliefs.py", "a.transpose(-1, -2) @ a / (a.shape[1] - 1)", "a.transpose(-1, -2) @ a / a.shape[1]"),
    ("linear.py", "belief.mean, mean.shape[-1])\n        error", "mean, mean.shape[-1])\n        error"),
    (
        "sigma.py",
        "x, _ = points.around(belief.mean, root(belief.cov))\n        mean, cov, _",
        "x, _ = points.around(belief.mean, root(belief.cov).mT)\n        mean, cov, _",
    ),
    ("sigma.py", "(self.beta - self.alpha**2) * s", "self.beta * s"),
    ("sigma.py", "torch.cat((left, product(update.gain, transposed(root(r)))), -1)", "left"),
    ("ensemble.py", "e - e.mean(1, keepdim=True) - _seen", "-_seen"),
    ("ensemble.py", "alpha = 1.0 / (1.0 + own * s.rsqrt())", "alpha = 1.0"),
    ("ensemble.py", "half = 0.5 * product", "half = 1.0 * product"),
    ("ensemble.py", "a - a.mean(1, keepdim=True))\n\n    def forecast", "a)\n\n    def forecast"),
    ("ensemble.py", "moved + draws @ transposed(error)", "moved + draws @ error"),
    ("reduced.py", "every = torch.cat((left, product(update.gain, transposed(root(r)))), -1)", "every = left"),
    ("reduced.py", "rank**0.5 * basis", "(rank + 1) ** 0.5 * basis"),
    ("mixed.py", "others + draws @ transposed(rest)", "others"),
    ("mixed.py", "belief.factor - gain @ predicted.root", "belief.factor + gain @ predicted.root"),
    ("particle.py", "log_weights = log_weights - likelihood.unsqueeze(-1)", "log_weights = log_weights + 0.0"),
    (
        "particle.py",
        'hour.noise.normal("model error", members, error.shape[-1])',
        '0.0 * hour.noise.normal("model error", members, error.shape[-1])',
    ),
    ("noise.py", "(self.seed >> 32)", "(self.seed >> 33)"),
    ("noise.py", "np.uint64(address(purpose))", "np.uint64(0)"),
    ("coloured.py", "moved + eta", "moved"),
    ("bias.py", "cross=share * predicted.cross", "cross=predicted.cross"),
    ("reduce.py", "ratio.clamp(min=1.0))", "torch.full_like(ratio, torch.inf))"),
    ("joint.py", "CHANCE**2", "0.0"),
)


def survives(file: str, right: str, wrong: str) -> bool:
    """Whether every test passes with a mistake."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("hydroda", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__", "*.nc"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = Path(folder) / "hydroda" / "filters" / file
        text = path.read_text(encoding="utf-8")
        if right not in text:
            raise ValueError(f"{file} has no {right!r} any more")
        path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "--no-header", "-p", "no:cacheprovider", *TESTS]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode == 0


def main(numbers: list[int]) -> int:
    left = []
    if not survives("recipe.py", "", ""):
        raise SystemExit("the tests must pass before a mistake is made")
    for number in numbers or range(len(MUTANTS)):
        file, right, wrong = MUTANTS[number]
        alive = survives(file, right, wrong)
        left += [number] if alive else []
        print(f"{number:2d} {'SURVIVES' if alive else 'caught':8s} {file}: {wrong.splitlines()[0]}", flush=True)
    print(f"{len(left)} of {len(numbers) or len(MUTANTS)} mistakes were not noticed")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main([int(argument) for argument in sys.argv[1:]]))
