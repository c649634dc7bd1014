"""How far a long step is: what it tells whoever looks on."""

from collections.abc import Callable

Progress = Callable[[float, str], None]  # the share that is done, and of what


def silent(fraction: float, text: str) -> None:
    """Progress that nobody looks at."""


def among(whole: Progress, before: int, count: int, name: str) -> Progress:
    """The progress of one of `count` things that are done one after the other, `before` of them already."""
    return lambda fraction, text: whole((before + fraction) / count, f"{name}, {text}")
