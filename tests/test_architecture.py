"""Who may import whom, read from the source: what keeps each half replaceable and the light half light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# rooms of the package, and modules that lie beside them, from the ground up: each knows what stands before it only
FLOORS = (
    *("progress", "units", "vocabulary", "schema", "quality", "catalogue", "toml_text", "settings", "settings_file"),
    *("storage", "sources", "generator", "models", "filters"),
    *("forecast", "publishing", "domain", "verifying", "running"),
    *("calibrating", "teaching", "pages", "trials", "inspection", "steps", "studies"),
    *("commands", "reproduction", "__main__"),
)
# rooms where tensors are at work, loaded by steps in need, and modules in them that do without all the same
NUMERICS = {"models", "filters", "forecast", "running", "calibrating", "teaching", "trials", "reproduction"}
LIGHT = {
    *("forecast.calibrated", "forecast.choice", "forecast.correction", "forecast.intervals", "forecast.known"),
    *("forecast.ledger", "forecast.pet", "forecast.predictive", "forecast.quarters", "forecast.weather"),
    *("forecast.window", "trials.bias_shares", "trials.drift_figure", "trials.twin_figures"),
    *("reproduction.rkn2025_report", "reproduction.sun2026_report", "reproduction.sun2026_scores"),
}
KNOW_NO_STORE = {"filters", "models", "sources", "forecast", "publishing"}
FAMILY_TOOLS = {"recipe", "beliefs", "nested", "kinds", "algebra", "noise", "networks", "learned", "guided"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path.read_text(encoding="utf-8")
    for folder in ("hydroda", "flows")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(source: str, *, on_load: bool = False, known: frozenset[str] = frozenset(MODULES)) -> set[str]:
    """Modules a source imports: anywhere, or only what is loaded with it (not in functions, not for type checkers)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if on_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module if node.level == 0 else "a relative import"
            found.update(full if (full := f"{base}.{alias.name}") in known else base for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


PACKAGE = [name for name in MODULES if name.startswith("hydroda.")]
ALL = {name: imports(source) for name, source in MODULES.items()}
LOADED = {name: imports(source, on_load=True) for name, source in MODULES.items()}


LOADING_TORCH = {name for name, targets in LOADED.items() if any(t.split(".")[0] == "torch" for t in targets)}


def reached(name: str) -> set[str]:
    """Everything that is loaded with a module."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target in LOADED.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def users(library: str) -> set[str]:
    """Modules that import a library, or anything below it."""
    return {name for name, targets in ALL.items() if any(t == library or t.startswith(f"{library}.") for t in targets)}


def ours(name: str) -> set[str]:
    """What a module imports of the package."""
    return {target for target in ALL[name] if target.startswith("hydroda.")}


def room(name: str) -> str:
    """The part of the package a module is of: a folder, or itself."""
    return name.split(".")[1] if "." in name else ""


def light(name: str) -> bool:
    """Whether a module must not load torch."""
    return room(name) not in NUMERICS or name.removeprefix("hydroda.") in LIGHT


def within(folder: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"hydroda.{folder}.")]


def test_the_reader_of_imports_sees_what_it_should():
    source = "import a.b\nfrom c import d, e\ndef f():\n    import g\nif TYPE_CHECKING:\n    import h\n"
    assert imports(source, known=frozenset({"c.d"})) == {"a.b", "c.d", "c", "g"}
    assert imports(source, on_load=True, known=frozenset({"c.d"})) == {"a.b", "c.d", "c"}


def test_prefect_is_known_to_flows_only():
    assert users("prefect")
    assert all(name.startswith("flows") for name in users("prefect"))
    assert not [name for name in users("flows") if name.startswith("hydroda")]


def test_torch_is_known_to_the_numerics_only():
    assert not [name for name in users("torch") if light(name)]


@pytest.mark.parametrize("name", sorted(filter(light, MODULES)))
def test_light_modules_load_no_torch(name):
    loading = sorted({name, *reached(name)} & LOADING_TORCH)
    assert not loading, f"{name} loads torch by {loading}: import in a function, or take it out of LIGHT"


def test_every_floor_knows_the_floors_below_it_only():
    rooms = {room(name) for name in PACKAGE}
    assert rooms == set(FLOORS), f"{rooms ^ set(FLOORS)}: a new room has its place in FLOORS, and in the README"
    for name in PACKAGE:
        above = {t for t in ours(name) if FLOORS.index(room(t)) > FLOORS.index(room(name))}
        assert not above, f"{name} imports {above}, which stands above it in FLOORS"


def test_nobody_imports_relatively():
    assert not [name for name in MODULES if "a relative import" in ALL[name]]


def test_netcdf_bytes_pass_one_door():
    assert users("netCDF4") == {"hydroda.storage.netcdf"}
    assert not users("h5netcdf") | users("h5py")
    for name, source in MODULES.items():
        if name != "hydroda.storage.netcdf":
            called = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
            assert not called & {"open_dataset", "load_dataset", "open_mfdataset", "to_netcdf"}, name


def test_a_filter_knows_no_model_and_no_other_family():
    for name in within("filters"):
        targets = ours(name)
        assert not {t for t in targets if t.startswith("hydroda.models")}, name
        families = {t.removeprefix("hydroda.filters.") for t in targets if t.startswith("hydroda.filters.")}
        assert families <= FAMILY_TOOLS, name


def test_a_model_knows_no_filter_and_nothing_of_the_world():
    for name in within("models"):
        outside = {t for t in ours(name) if not t.startswith("hydroda.models.")}
        assert outside <= {"hydroda.schema", "hydroda.units"}, name


def test_a_source_knows_the_contract_only():
    for name in within("sources"):
        outside = {t for t in ours(name) if not t.startswith("hydroda.sources.")}
        storage = {f"hydroda.storage.{each}" for each in ("records", "netcdf", "files")}
        assert outside <= {"hydroda.schema", "hydroda.units"} | storage, name


def test_what_computes_knows_no_store_and_only_who_drives_a_deployment_knows_the_steps():
    """Flows, the command line, and the study that makes deployments as a person would."""
    study = {f"hydroda.reproduction.sun2026{part}" for part in ("", "_rows", "_together")}
    driving = {"hydroda.__main__", *within("commands")} | study
    assert {n for n, t in ALL.items() if "hydroda.steps" in t} <= driving | {
        n for n in MODULES if n.startswith("flows.")
    }
    assert not {n for n in PACKAGE if room(n) in KNOW_NO_STORE and "hydroda.storage.store" in ALL[n]}


def test_flows_and_the_command_line_hold_no_arithmetic():
    command_line = {"hydroda.__main__", *within("commands")}
    names = "steps studies settings settings_file units vocabulary storage.lock"
    allowed = {f"hydroda.{name}" for name in names.split()} | command_line
    for name in MODULES:
        if name.startswith("flows.") or name in command_line:
            assert ours(name) <= allowed, name


def test_packages_re_export_nothing():
    for path in (ROOT / "hydroda").rglob("__init__.py"):
        assert not ALL[name_of(path)], path


def test_no_circles():
    for name in MODULES:
        assert name not in reached(name), f"{name} is loaded by something it loads"


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("hydroda", {"numpy"}),
        ("hydroda.__main__", {"torch", "xarray", "prefect", "pydantic", "numpy"}),
        ("hydroda.settings", {"torch", "prefect", "netCDF4"}),
        ("hydroda.storage.store", {"torch", "prefect"}),
        ("hydroda.steps", {"torch", "prefect", "matplotlib"}),
    ],
)
def test_loading_stays_light(module, without):
    """The same, seen from a fresh interpreter: what libraries load of their own counts too."""
    code = f"import sys, {module}; print(*sorted({without!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
