"""The only place that opens or writes NetCDF bytes: datasets in memory to files and back.

A variable with `units` (or a time) is a quantity: missing is NaN or NaT in memory and a fill value on disk, integers
are 32 bit. A variable without `units` is internal (a belief) and is kept bit for bit, NaN included. Every chunked
variable is deflated and carries a checksum per chunk; the file carries one over all its numbers, because a flipped bit
in HDF5's own bookkeeping can make numbers vanish or change without an error (about 1 flip in 700, measured).
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from hydroda.storage import files
from hydroda.storage.encoding import DATA_HASH, Stored, data_hash, decode, global_attrs, stored

NC_LOCK = threading.RLock()  # netCDF-C and HDF5 are not thread-safe: two threads on two files crash the process

CHUNK_BYTES = 1 << 20
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
CHILD_MEMORY = 4 << 30
SCRATCH_MARGIN = 4 << 20

# What the child process does with a file nobody vouches for: read all of it, in bounded memory.
_TRIAL = """
import resource, sys
import netCDF4
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
with netCDF4.Dataset("trial", memory=sys.stdin.buffer.read()) as nc:
    nc.set_auto_maskandscale(False)
    nc.set_auto_chartostring(False)
    for variable in nc.variables.values():
        variable[...]
"""


class DamagedFile(RuntimeError):
    """A file that must not be used; the message names it and says why."""

    def __init__(self, path: Path, why: str):
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def write(ds: xr.Dataset, path: Path, *, record_dim: str | None = "time", checksum: bool = True) -> str:
    """Writes `ds` to `path` in one step (see `files`), with `<path>.sha256` after it; returns the SHA-256 of the file.

    `record_dim` becomes the unlimited dimension. float64 goes to disk as float32 where `encoding["dtype"]` says so.
    The same dataset gives the same bytes. Raises ValueError or TypeError for what the format cannot hold, OSError.
    """
    if record_dim is not None and record_dim not in ds.dims:
        raise ValueError(f"{path.name}: no dimension {record_dim!r} in {dict(ds.sizes)}; pass record_dim=None")
    for name, size in ds.sizes.items():
        if size == 0:
            raise ValueError(f"{path.name}: dimension {name!r} has length 0, which NetCDF takes for 'unlimited'")
    variables = [stored(ds, str(name)) for name in ds.variables]
    data = _file(variables, global_attrs(ds, variables), record_dim)
    digest = hashlib.sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    sidecar = sidecar_path(path)
    with files.clean(path, sidecar) as (temp, temp_sidecar):
        files.put(temp, data)
        if checksum:
            files.put(temp_sidecar, f"{digest}  {path.name}\n".encode())
        with NC_LOCK:  # or two threads could pair the file of one with the checksum of the other
            # The old checksum goes first: a kill here leaves a file without one, never one that contradicts its file.
            sidecar.unlink(missing_ok=True)
            temp.replace(path)
            if checksum:
                temp_sidecar.replace(sidecar)
        files.flush(path.parent)
    return digest


def read(path: Path, *, timeout: float = 20) -> xr.Dataset:
    """The dataset in `path`, loaded and decoded: ids are str, times datetime64[ns] UTC, missing is NaN.

    A file whose `<path>.sha256` does not match is refused. One without is first read by a child process with `timeout`
    seconds, since a damaged file can make the library spin for ever. Raises DamagedFile, FileNotFoundError.
    """
    data, vouched = _bytes(path, timeout)
    if not vouched:
        _try_in_child(path, data, timeout)
    return _parse(path, data)


def sidecar_path(path: Path) -> Path:
    """Where the SHA-256 of a file is kept, in the format of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")


def _file(variables: list[Stored], attrs: dict, record_dim: str | None) -> bytes:
    """The bytes of a file with these variables; 64-bit integers of a belief need the wider format.

    The library writes to a nameless scratch file, in memory where there is room, and the disk gets plain writes: they
    say what is wrong with it, where the library says "HDF error" and keeps the failed file and its space to the end.
    """
    wide = any(variable.values.dtype.str[1:] in ("i8", "u8", "u1") for variable in variables)
    folder = _scratch_folder(sum(variable.values.nbytes for variable in variables))
    with tempfile.NamedTemporaryFile("r+b", suffix=".nc", prefix="hydroda-", dir=folder, delete=False) as scratch:
        try:
            with NC_LOCK:
                try:
                    nc = netCDF4.Dataset(scratch.name, "w", format="NETCDF4" if wide else "NETCDF4_CLASSIC")
                finally:
                    Path(scratch.name).unlink()
                with nc:
                    _fill(nc, variables, attrs, record_dim)
            return scratch.read()
        except BaseException:
            scratch.truncate(0)  # gives the space back even if the library keeps the file open
            raise


def _scratch_folder(size: int) -> Path:
    """Where there is room for a file with so many bytes of numbers. Raises OSError."""
    folders = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    needed = 2 * size + SCRATCH_MARGIN
    for folder in folders:
        if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > needed:
            return folder
    raise OSError(errno.ENOSPC, f"disk full: no {needed} bytes free in {' or '.join(map(str, folders))}")


def _fill(nc: Any, variables: list[Stored], attrs: dict, record_dim: str | None) -> None:
    """Dimensions, variables and attributes into an open file."""
    sizes = {dim: size for v in variables for dim, size in zip(v.dims, v.values.shape, strict=True)}
    if record_dim is not None:
        sizes = {record_dim: sizes[record_dim], **sizes}
    for dim, size in sizes.items():
        nc.createDimension(dim, None if dim == record_dim else size)
    for variable in variables:
        own = dict(variable.attrs)
        layout: dict[str, Any] = {}
        if variable.dims:
            layout = {"compression": "zlib", "complevel": 4, "shuffle": True, "fletcher32": True}
            layout["chunksizes"] = _chunks(variable.values)
        target = nc.createVariable(
            variable.name, variable.values.dtype, variable.dims, fill_value=own.pop("_FillValue", None), **layout
        )
        target.set_auto_maskandscale(False)
        target.set_auto_chartostring(False)
        target.setncatts(own)
        target[...] = variable.values
    nc.setncatts(attrs)


def _chunks(values: np.ndarray) -> tuple[int, ...]:
    """The whole variable, its longest axis halved until a chunk is at most about 1 MB."""
    chunks = list(values.shape)
    while np.prod(chunks) * values.dtype.itemsize > CHUNK_BYTES:
        longest = int(np.argmax(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    return tuple(chunks)


def _bytes(path: Path, timeout: float) -> tuple[bytes, bool]:
    """The content of the file and whether its checksum vouches for it.

    A writer may swap the file between the two reads: only a checksum that stayed the same contradicts its file.
    """
    deadline = time.monotonic() + timeout
    while True:
        before = _promise(path)
        data = path.read_bytes()
        if before is None:
            break
        if hashlib.sha256(data).hexdigest() == before:
            return data, True
        if before == _promise(path):
            raise DamagedFile(path, f"does not match its checksum in {sidecar_path(path).name}: damaged or replaced")
        if time.monotonic() > deadline:
            raise DamagedFile(path, f"is being rewritten all the time; no stable state within {timeout:g} s")
    if not data:
        raise DamagedFile(path, "is empty")
    if not data.startswith(HDF5_MAGIC):
        raise DamagedFile(
            path,
            "is not a netCDF-4 file (netCDF-3 is read only with a .sha256 beside it, because a damaged one cannot be "
            "told from a good one; nccopy -k nc7 converts)",
        )
    return data, False


def _promise(path: Path) -> str | None:
    """The SHA-256 that the file beside `path` promises."""
    try:
        words = sidecar_path(path).read_text(encoding="ascii", errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0].lower() if words else ""


def _try_in_child(path: Path, data: bytes, timeout: float) -> None:
    """Lets a child process read the whole file first; raises DamagedFile when it fails, crashes or does not return."""
    limit = str(CHILD_MEMORY + 20 * len(data))
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL, limit], input=data, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DamagedFile(path, f"not read within {timeout:g} s; a damaged file can make the library spin") from error
    if trial.returncode:
        said = trial.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"the library crashed with signal {-trial.returncode}"
        raise DamagedFile(path, f"cannot be read as NetCDF ({why})")


def _parse(path: Path, data: bytes) -> xr.Dataset:
    """The dataset in the bytes of a file. Raises DamagedFile."""
    try:
        with NC_LOCK, netCDF4.Dataset(path.name, memory=data) as nc:
            nc.set_auto_maskandscale(False)
            nc.set_auto_chartostring(False)
            attrs = {key: nc.getncattr(key) for key in nc.ncattrs()}
            variables = [_load(variable) for variable in nc.variables.values()]
        promised = attrs.pop(DATA_HASH, None)
        if promised is not None and promised != data_hash(variables):
            raise DamagedFile(
                path,
                f"its numbers do not match its own checksum (attribute {DATA_HASH}): damaged, or changed by another "
                f"program; after an intended change remove the attribute (ncatted -h -a {DATA_HASH},global,d,,)",
            )
        return decode(variables, attrs)
    except DamagedFile:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DamagedFile(path, f"cannot be read as NetCDF ({error})") from error


def _load(variable: Any) -> Stored:
    """A variable of an open file as it lies on disk."""
    values = np.asarray(variable[...])
    attrs = {key: variable.getncattr(key) for key in variable.ncattrs()}
    return Stored(variable.name, variable.dimensions, values, attrs)
