"""What the engine will map and shuffle: from the card's widths and counts alone, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from walkbits import settings
from walkbits.network.declaration import Network, Update
from walkbits.types import NodeType, size_text

_BLOCK_BYTES: Final = 64 << 20
"""Partial sums that a worker holds for one destination block."""

_MESSAGE_BYTES: Final = {"fp32": 4, "fp16": 2}


@dataclass(frozen=True)
class UpdatePlan:
    """How one update pools: which rows of its source matrix are mapped, the rest being shuffled.

    Attributes:
        layer: Counted from 1.
        width: Columns of what is pooled.
        sources: Rows of what is pooled.
        targets: Rows of the result.
        cached_rows: Rows in the mapped matrix, the most referenced first.
        num_blocks: Destination blocks of the shuffle.
        message_bytes: Bytes of one shuffled coordinate.
    """

    layer: int
    update: Update
    width: int
    sources: int
    targets: int
    cached_rows: int
    num_blocks: int
    message_bytes: int

    @property
    def whole(self) -> bool:
        """Whether every row is mapped, so that nothing is shuffled."""
        return self.cached_rows == self.sources

    @property
    def cached_bytes(self) -> int:
        """Bytes of the mapped matrix on each host."""
        return 4 * self.width * self.cached_rows

    @property
    def block_bytes(self) -> int:
        """Bytes of partial sums in a worker that pools one destination block."""
        return 0 if self.whole else 4 * self.width * -(-self.targets // self.num_blocks)

    def naive_bytes(self, references: int) -> int:
        """Vector bytes of explode + join + groupBy: one fp32 vector per reference."""
        return 4 * self.width * references

    def shuffled_bytes(self, references: int) -> int:
        """At most this many vector bytes are shuffled.

        The cold rows are the least referenced, so their share of the references is at most
        their share of the rows; and a row goes to each block at most once.
        """
        cold = self.sources - self.cached_rows
        sent = min(cold * self.num_blocks, references * cold // max(self.sources, 1))
        return self.message_bytes * self.width * sent


def plan_updates(
    network: Network, num_nodes: Mapping[NodeType, int], inference: settings.Inference, parallelism: int
) -> list[UpdatePlan]:
    """Split the byte budget over the updates of each layer, in proportion to their matrices.

    Args:
        parallelism: Tasks that run at once; a shuffle has at least two blocks for each.

    Returns:
        One plan per update, in the order of the layers.
    """
    width = {
        (number, update.reads): _pooled_width(network, number, update)
        for number, updates in enumerate(network.layers, start=1)
        for update in updates
    }
    plans = []
    for number, updates in enumerate(network.layers, start=1):
        total = sum(4 * width[number, one.reads] * num_nodes[one.source] for one in updates)
        for update in updates:
            sources, targets = num_nodes[update.source], num_nodes[update.target]
            budget = total if inference.cache_bytes is None else min(inference.cache_bytes, total)
            # One cut into blocks serves all layers of a relation, so that references are counted once.
            widest = max(w for (_, reads), w in width.items() if reads == update.reads)
            num_blocks = max(2 * parallelism, -(-4 * widest * targets // _BLOCK_BYTES))
            plans.append(
                UpdatePlan(
                    layer=number,
                    update=update,
                    width=width[number, update.reads],
                    sources=sources,
                    targets=targets,
                    cached_rows=sources * budget // max(total, 1),
                    num_blocks=max(1, min(num_blocks, targets)),
                    message_bytes=_MESSAGE_BYTES[inference.message_dtype],
                )
            )
    return plans


def explained(plans: list[UpdatePlan], references: Mapping[str, int], parallelism: int) -> str:
    """The plan as a table, one line per update.

    Args:
        references: Neighbors listed in all neighborhoods, by `Update.reads`.
    """
    lines = [f"{'layer':>5}  {'relation':<24}{'cached':>12}{'of':>12}{'shuffled at most':>19}{'naive':>12}"]
    for plan in plans:
        listed = references[plan.update.reads]
        full = 4 * plan.width * plan.sources
        lines.append(
            f"{plan.layer:>5}  {plan.update.reads:<24}{size_text(plan.cached_bytes):>12}{size_text(full):>12}"
            f"{size_text(plan.shuffled_bytes(listed)):>19}{size_text(plan.naive_bytes(listed)):>12}"
        )
    layers = {plan.layer for plan in plans}
    cached = max((sum(p.cached_bytes for p in plans if p.layer == one) for one in layers), default=0)
    block = max((plan.block_bytes for plan in plans), default=0)
    lines.append(f"largest layer: {size_text(cached)} mapped once per host, shared by its workers")
    lines.append(f"{parallelism} workers at once, each with partial sums of {size_text(block)}")
    return "\n".join(lines)


def _pooled_width(network: Network, number: int, update: Update) -> int:
    linear = update.project.linear
    return linear.size if linear else network.widths()[number - 1][update.source]
