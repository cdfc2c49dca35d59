"""Lists after some items changed, from the old lists and a search among the changed items alone.

An unchanged item that was in no list scores at most what the list ended with, so

    new list = k best of (old list without changed items) and (k best changed items)

as far as its scores are not below that end; a list that gave more changed items away than it got is to be
searched again.
"""

from __future__ import annotations

import numpy as np

from walkbits.types import F32, I64, Bools

Lists = tuple[I64, F32]
"""Items int64 [q, k] and scores fp32 [q, k], best score first, then by item; -1 and -inf fill the end."""


def refreshed(old: Lists, changed: I64, offered: Lists) -> tuple[Lists, Bools]:
    """Lists with the changed items in their new places.

    A changed item is one whose vector is another, that is new, or that has gone. Queries are those whose own
    vectors are the same; the others, and those that are not whole, are searched anew.

    Args:
        old: Exact lists before the change; one that -1 ends holds all items there were.
        changed: int64, ascending.
        offered: The k best changed items of each query now, as a search among them alone finds.

    Returns:
        The lists; and for each whether it is whole: equal to what a scan of all items finds.
    """
    (items, scores), (new_items, new_scores) = old, offered
    k = items.shape[1]
    gone = np.isin(items, changed)
    end, end_item = scores[:, -1:], items[:, -1:]
    kept_items, kept_scores = np.where(gone, -1, items), np.where(gone, -np.inf, scores)
    both_items = np.hstack([kept_items, new_items])
    both_scores = np.hstack([kept_scores, new_scores]).astype(np.float32)
    last = np.where(both_items < 0, np.iinfo(np.int64).max, both_items)
    order = np.lexsort((last, -both_scores), axis=1)[:, :k]
    found = np.take_along_axis(both_items, order, axis=1)
    best = np.take_along_axis(both_scores, order, axis=1)
    everything = end_item < 0  # the list held all there was
    behind = (best < end) | ((best == end) & (found > end_item)) | (found < 0)
    return (found, best), ~(behind & ~everything).any(axis=1)
