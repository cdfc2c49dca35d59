"""Random walks and their neighborhoods in plain Python integers, one walker at a time.

Written from the words of walkbits.walks.kernel and reliability's formula, sharing no code
with them: the compiled kernel is held bit-equal to this.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from walkbits.graph.csr import BipartiteCsr
from walkbits.settings import HardNegatives, Walks

MASK = (1 << 64) - 1
G = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draw(seed: int, node: int, walk: int, step: int) -> int:
    u = mix((seed + G) & MASK)
    for value, salt in ((node, 1), (walk, 2), (step, 3)):
        u = mix(u ^ ((value * G + salt) & MASK))
    return u


@dataclass(frozen=True)
class Graph:
    """Edges as (item, context, weight) and the keys of the nodes, in any order."""

    num_items: int
    num_contexts: int
    edges: list[tuple[int, int, int]]
    weighted: bool = False
    item_keys: list[int] = field(default_factory=list)
    context_keys: list[int] = field(default_factory=list)

    def csr(self) -> BipartiteCsr:
        edges = np.array(self.edges, np.int64).reshape(-1, 3)
        return BipartiteCsr.from_edges(
            edges[:, 0].astype(np.int32),
            edges[:, 1].astype(np.int32),
            edges[:, 2] if self.weighted else None,
            self.num_items,
            self.num_contexts,
            np.array(self.item_keys, np.int64),
            np.array(self.context_keys, np.int64),
        )

    def rows(self, node_type: str) -> list[list[tuple[int, int]]]:
        """Per node its (neighbor, weight), ascending."""
        if node_type == "item":
            pairs = sorted((i, c, w) for i, c, w in self.edges)
        else:
            pairs = sorted((c, i, w) for i, c, w in self.edges)
        rows: list[list[tuple[int, int]]] = [
            [] for _ in range(self.num_items if node_type == "item" else self.num_contexts)
        ]
        for node, neighbor, weight in pairs:
            rows[node].append((neighbor, weight))
        return rows


def pick(row: list[tuple[int, int]], u: int, weighted: bool) -> int:
    if not weighted:
        return row[((u >> 32) * len(row)) >> 32][0]
    left = u % sum(weight for _, weight in row)
    for neighbor, weight in row:
        if left < weight:
            return neighbor
        left -= weight
    raise AssertionError("weights are positive")


def paths(graph: Graph, relation: str, node: int, walks: Walks, seed: int) -> Iterator[list[tuple[int, int]]]:
    """Per walk its (visit, first node it went to since it was at the start)."""
    target, source = relation.split("_from_")
    out = graph.rows(target)
    home = graph.rows("context" if target == "item" else "item")
    key = (graph.item_keys if target == "item" else graph.context_keys)[node]
    if not out[node]:
        return
    for walk in range(walks.num_walks):
        at, first, visits = node, -1, []
        for k in range(walks.walk_length):
            other = pick(out[at], draw(seed, key, walk, 2 * k), graph.weighted)
            first = other if first < 0 else first
            if source != target:
                visits.append((other, first))
            at = pick(home[other], draw(seed, key, walk, 2 * k + 1), graph.weighted)
            if source == target:
                visits.append((at, first))
            if walks.restart_probability:
                u = draw(seed, key, walk, (1 << 32) + k)
                if u < int(walks.restart_probability * 2**64):
                    at, first = node, -1
        yield visits


def visits_of(graph: Graph, relation: str, node: int, walks: Walks, seed: int) -> Counter[tuple[int, int]]:
    """(visit, source) -> times, of the walks that are made before an early stop."""
    target, source = relation.split("_from_")
    counts: Counter[tuple[int, int]] = Counter()
    for made, visits in enumerate(paths(graph, relation, node, walks, seed)):
        if walks.early_stop and made and made in {walks.num_walks // part for part in (2, 4, 8)}:
            seen = Counter(visit for visit, _ in counts.elements())
            often = [times for times in seen.values() if times >= walks.early_stop.visits]
            if len(often) >= walks.early_stop.nodes:
                break
        counts.update(pair for pair in visits if source != target or pair[0] != node)
    return counts


def visit_counts(graph: Graph, relation: str, node: int, walks: Walks, seed: int) -> Counter[int]:
    return Counter(visit for visit, _ in visits_of(graph, relation, node, walks, seed).elements())


def neighborhood(graph: Graph, relation: str, node: int, walks: Walks, seed: int) -> list[tuple[int, int]]:
    pairs = visits_of(graph, relation, node, walks, seed)
    counts = Counter(visit for visit, _ in pairs.elements())
    target, source = relation.split("_from_")
    degrees = [len(row) for row in graph.rows(source)]

    def rank(entry: tuple[int, int]) -> tuple[float, int]:
        node, visits = entry
        penalty = round(2.0**36 * float(max(degrees[node], 1)) ** -walks.popularity_penalty)
        if walks.multi_source_boost and source != target:
            roots = 0.0
            for _, times in sorted((by, times) for (at, by), times in pairs.items() if at == node):
                roots += math.sqrt(times)
            return -(roots * roots * float(penalty)), node
        return -visits * penalty, node

    return sorted(counts.items(), key=rank)[: walks.num_neighbors]


def hard_negatives(
    graph: Graph,
    query: int,
    partners: set[int],
    walks: Walks,
    hard: HardNegatives,
    seed: int,
) -> list[int]:
    """Written from the words of walkbits.training.negatives."""
    longer = walks.model_copy(update={"num_walks": hard.num_walks, "num_neighbors": hard.last_rank})
    window = [item for item, _ in neighborhood(graph, "item_from_item", query, longer, seed)]
    window = [item for item in window[hard.first_rank - 1 :] if item not in partners]
    tagged = seed ^ int.from_bytes(b"window", "big")
    window.sort(key=lambda item: draw(tagged, graph.item_keys[query], graph.item_keys[item], 0))
    sample = window[: hard.per_query] or [query]
    return [sample[i % len(sample)] for i in range(hard.per_query)]


def random_graph(num_items: int, num_contexts: int, num_edges: int, seed: int, weighted: bool) -> Graph:
    """A graph with a hub, a node without edges on each side when it is sparse, and signed keys."""
    generator = np.random.default_rng(seed)
    pairs = generator.choice(num_items * num_contexts, min(num_edges, num_items * num_contexts), False)
    hub = [(0, context) for context in range(0, num_contexts, 2)]
    edges = sorted({*((int(p) // num_contexts, int(p) % num_contexts) for p in pairs), *hub})
    weights = generator.integers(1, 1 << 40, len(edges)).tolist()
    generator.shuffle(edges)

    def keys(count: int) -> list[int]:
        values: Sequence[int] = generator.integers(-(2**63), 2**63 - 1, count).tolist()
        return list(values)

    return Graph(
        num_items,
        num_contexts,
        [(int(i), int(c), w) for (i, c), w in zip(edges, weights, strict=True)],
        weighted,
        keys(num_items),
        keys(num_contexts),
    )
