"""Weights of networks as files: safetensors, since a pickle may run code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hydroda.storage import files

WEIGHTS = "hydroda weights 1"  # format


def save(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Weights and what is to be known of them (configuration, data hash, scores) as one safetensors file."""
    files.replace(path, packed(weights, {"format": WEIGHTS, **about}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote. Raises ValueError for any other file: a pickle may run code, so none is read."""
    return unpacked(path, WEIGHTS)


def weights_in(content: bytes) -> dict[str, Tensor]:
    """The weights alone, of the content of a file that `save` wrote. Raises ValueError for any other."""
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"no safetensors: {error}") from None


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Tensors and what is to be known of them as the bytes of a file.

    One entry of metadata, since those of safetensors come in any order and the same must give the same bytes."""
    return safetensors.torch.save(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, {"about": json.dumps(about)}
    )


def unpacked(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `packed` made, of a format. Raises ValueError for any other file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None
    if (found := about.pop("format", None)) != expected:
        raise ValueError(f"{path}: format is {found!r}, expected {expected!r}")
    return tensors, about
