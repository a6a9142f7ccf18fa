"""The order in which a judge sees the items of a query, and the way back to the order in which they are stored."""

from __future__ import annotations

from collections.abc import Sequence

from backflip.data import Item, Query
from backflip.errors import DataError

SEVEN_POINTS = (0.02, 0.12, 0.3, 0.5, 0.7, 0.88, 0.98)
"""What each answer on a scale of seven means as the share of the first: much worse, worse, slightly worse, about equal, and so on."""


def order_of(query: Query) -> tuple[int, ...]:
    """Return `order[k]`, the index of the item shown at place k.

    Raises:
        DataError: the query's order is not a permutation of its items.
    """
    order = query.order or tuple(range(len(query.items)))
    if sorted(order) != list(range(len(query.items))):
        raise DataError(
            f"query {query.id} has order {query.order} for {len(query.items)} items; expected each index once"
        )
    return order


def shown(query: Query) -> list[Item]:
    """Return the items in the order in which they are shown."""
    return [query.items[index] for index in order_of(query)]


def as_stored(query: Query, answer: Sequence[float]) -> tuple[float, ...]:
    """Turn shares for the places shown into shares for the items as stored."""
    shares = [0.0] * len(query.items)
    for index, share in zip(order_of(query), answer, strict=True):
        shares[index] = float(share)
    return tuple(shares)


def require_pair(query: Query, who: str) -> None:
    """Refuse a query that is no comparison of two.

    Raises:
        DataError: the query is of another kind, or of more or fewer items.
    """
    if query.kind != "compare" or len(query.items) != 2:
        raise DataError(
            f"query {query.id} is {query.kind} of {len(query.items)} items; {who} answers comparisons of two"
        )
