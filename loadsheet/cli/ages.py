"""How long ago, in a word."""

from __future__ import annotations

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def age(seconds: float) -> str:
    """The two largest units that matter: `42s`, `12m`, `3h 5m`, `2d 4h`, `30d`; never below zero."""
    whole = max(int(seconds), 0)
    unit, size = next(((unit, size) for unit, size in _UNITS if whole >= size), ("s", 1))
    first, rest = divmod(whole, size)
    following = {"d": ("h", 3_600), "h": ("m", 60)}.get(unit)
    if following and first < 10 and (second := rest // following[1]):
        return f"{first}{unit} {second}{following[0]}"
    return f"{first}{unit}"
