"""Which plan walks a graph, and what it will take: known before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkbits import settings
from walkbits.errors import InputError
from walkbits.schemas import ITEM
from walkbits.types import Relation, source_of, target_of

_SECONDS_PER_HOP: Final = 25e-9
"""One core, a graph beyond its caches (benchmarks/walks.py measures it as kernel_ns_per_hop)."""
_STATE_BYTES: Final = 20
"""A walker between hops: start, key, walk, place."""


@dataclass(frozen=True)
class WalkPlan:
    """How the walks of one relation run.

    Attributes:
        name: `replicated` or `sharded`.
        num_shards: Ranges that each side's rows are cut in; 1 when replicated.
        graph_bytes: Of the mapped files.
        bytes_per_host: Mapped at most by one host.
        shuffled_bytes: By all hops together.
        visits: Counted visits at most.
        core_seconds: Of hops, on one core; None for method push, whose work depends on the edges.
    """

    relation: Relation
    name: str
    num_shards: int
    graph_bytes: int
    bytes_per_host: int
    shuffled_bytes: int
    visits: int
    core_seconds: float | None

    def explain(self) -> str:
        """The plan as text, one figure per line."""
        took = "unknown" if self.core_seconds is None else f"{self.core_seconds:,.0f}"
        return "\n".join(
            [
                f"{self.relation}: plan {self.name}, {self.num_shards} shard(s)",
                f"  graph on disk      {self.graph_bytes:>20,} bytes",
                f"  mapped per host    {self.bytes_per_host:>20,} bytes",
                f"  shuffled           {self.shuffled_bytes:>20,} bytes",
                f"  visits at most     {self.visits:>20,}",
                f"  hops on one core   {took:>20} seconds",
            ]
        )


def plan_walks(
    num_items: int, num_contexts: int, num_edges: int, weighted: bool,
    relation: Relation, walks: settings.Walks,
) -> WalkPlan:  # fmt: skip
    """Choose the plan by size, or take the one the config names.

    Raises:
        InputError: `replicated` is asked for and the graph does not fit `walks.host_bytes`, or an
            option that only `replicated` has is asked for and `sharded` is due.
    """
    pointer = 4 if num_edges < 1 << 31 else 8
    entry = 4 + (8 if weighted else 0)
    size = (num_items + num_contexts) * (pointer + 8) + 2 * num_edges * entry
    fits = size <= walks.host_bytes
    if walks.plan == "replicated" and not fits:
        raise InputError(
            f"walks.plan replicated needs the graph within walks.host_bytes {walks.host_bytes:,}, "
            f"got {size:,} bytes; set walks.plan to auto or sharded, or use larger hosts"
        )
    sharded = walks.plan == "sharded" or not fits
    options = {
        "early_stop": walks.early_stop is not None,
        "multi_source_boost": walks.multi_source_boost,
        "method push": walks.method == "push",
    }
    if sharded and any(options.values()):
        raise InputError(
            f"walks.{next(name for name, on in options.items() if on)} needs plan replicated, got a graph of "
            f"{size:,} bytes with walks.plan {walks.plan} and walks.host_bytes {walks.host_bytes:,}; "
            "leave the option out, or use larger hosts"
        )
    num_shards = max(2, -(-size // walks.host_bytes)) if sharded else 1
    starts = num_items if target_of(relation) == ITEM else num_contexts
    hops = 2 * walks.walk_length - (target_of(relation) != source_of(relation))
    walkers = starts * walks.num_walks
    return WalkPlan(
        relation=relation,
        name="sharded" if sharded else "replicated",
        num_shards=num_shards,
        graph_bytes=size,
        bytes_per_host=min(size, walks.host_bytes) if sharded else size,
        shuffled_bytes=walkers * hops * _STATE_BYTES if sharded else 0,
        visits=walkers * walks.walk_length,
        core_seconds=None if walks.method == "push" else walkers * hops * _SECONDS_PER_HOP,
    )
