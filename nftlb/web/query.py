"""The parameters of a query. A parameter that is unknown or given twice is refused: a typing error must not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.printable import show

from .errors import RequestError

if TYPE_CHECKING:
    from aiohttp import web

_MOST_DIGITS = 16


def read_query(request: web.Request, *names: str) -> dict[str, str]:
    """The parameters that are given, of these names. RequestError 400 for others, and for two of one name."""
    if unknown := sorted(set(request.query) - {*names}):
        shown = ", ".join(map(show, unknown))
        allowed = ", ".join(names) or "no parameters"
        raise RequestError(400, f"unknown in the query: {shown}; allowed: {allowed}", field=unknown[0][:60])
    for name in names:
        if len(request.query.getall(name, [])) > 1:
            raise RequestError(400, f"{name} is given more than once; allowed: once", field=name)
    return dict(request.query)


def number_of(given: dict[str, str], name: str, low: int, high: int, what: str) -> int | None:
    """The whole number of a parameter; None if it is not given. RequestError 400 if it is not from `low` to `high`."""
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and low <= int(text) <= high):
        raise RequestError(400, f"{name} is not {what}; allowed: {low} to {high}", field=name)
    return int(text)


def flag(given: dict[str, str], name: str) -> bool:
    """Whether a parameter is `true`; false without it. RequestError 400 for other words."""
    text = given.get(name, "false")
    if text not in {"true", "false"}:
        raise RequestError(400, f"{name} is {show(text)}; allowed: true, false", field=name)
    return text == "true"
