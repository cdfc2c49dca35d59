"""What a day takes, stage by stage: told from its inputs' counts before anything runs.

Rates are of one core of a server (AMD EPYC) and of item_pool as `make bench-day` runs it, which also says how
far the forecast was off. Elsewhere compare stages, not seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from walkbits.config import Config
from walkbits.index.plan import Before
from walkbits.index.plan import Forecast as Search
from walkbits.index.plan import forecast as search
from walkbits.index.related import recommends
from walkbits.inference.plan import plan_updates
from walkbits.ingest.space import layout_of, width_of
from walkbits.models import walked_relations
from walkbits.models.base import NO_SHAPES, Shapes
from walkbits.network.declaration import TABLE, Network
from walkbits.schemas import RECOMMENDATIONS, RELATED
from walkbits.settings import Index
from walkbits.types import NodeType, size_text, target_of
from walkbits.walks.plan import plan_walks

_FIXED: Final = {
    "open": 19.0,
    "ingest_graph": 12.0,
    "build_features": 8.0,
    "build_neighborhoods": 7.0,
    "train_model": 14.0,
    "infer_layers": 3.0,
    "build_index": 11.0,
    "publish_run": 18.0,
}
"""Seconds on forty items and 300 interactions."""
_JUDGED: Final = 4e-6
_INGEST: Final = 16e-6
_FEATURES: Final = 40e-6
_GRAPH: Final = 5e-6
_PUSH: Final = 10e-6
_EMBEDDED: Final = 50e-6
_POOLED: Final = 1e-9
_LISTED: Final = 1e-6
_CODED: Final = 20e-6
_AUDITED: Final = 50e-6
"""Seconds of a core: an interaction (twice), an item's features, an edge (twice), an embedded node, a pooled
column, a listed item, a coded node and an audited row."""
_EXAMPLE: Final = 22e-6
_EXAMPLE_COLUMN: Final = 0.41e-6
"""Seconds of the trainer, which is one process: an example, and each column of it in a batch of 2,048."""
_MULTIPLIED: Final = 2.1e-10
"""Of a core: what one weight of a dense layer takes for one node, forth and back."""
_EDGE_BYTES: Final = 12
_NODE_BYTES: Final = 40
_ROW_BYTES: Final = 60
_LIST_BYTES: Final = 20
_BUCKET_BYTES: Final = 4
"""Compressed rows of tables; of an interaction, what stages keep on disk between passes."""


@dataclass(frozen=True)
class Counts:
    """Of one day's inputs.

    Attributes:
        rows: interactions.
        edges: pairs of an item and a context; at most `rows`.
    """

    items: int
    contexts: int
    rows: int
    edges: int

    def __str__(self) -> str:
        return (
            f"about {self.items:,} items, {self.contexts:,} contexts, {self.rows:,} interactions, "
            f"{self.edges:,} edges"
        )


@dataclass(frozen=True)
class Forecast:
    """Of one stage.

    Attributes:
        seconds: in all.
        written: bytes that stay on disk.
        scratch: bytes on disk while it runs.
        mapped: bytes of files that each host maps: page cache, faster where they fit its memory.
        held: bytes that one process holds in memory and cannot do without.
    """

    stage: str
    seconds: float
    written: int = 0
    scratch: int = 0
    mapped: int = 0
    held: int = 0


def forecast_day(counts: Counts, config: Config, cores: int) -> list[Forecast]:
    """Every stage of a day that trains, in order; `open` is the session, the inputs' checks and the run."""
    nodes: dict[NodeType, int] = {"item": counts.items, "context": counts.contexts}
    widths = {
        one: width_of(layout_of(config.features, table, one)) for one, table in config.node_tables.items()
    }
    network = config.model.network(Shapes(nodes, {one: width for one, width in widths.items() if width}))
    return [
        Forecast("open", _FIXED["open"] + counts.rows * _JUDGED / cores),
        _ingest(counts, cores),
        _features(nodes, widths, cores),
        _walks(counts, nodes, config, cores),
        _training(counts, nodes, network, config, cores),
        _layers(counts, nodes, network, config, cores),
        _index(nodes, network, config, cores),
        _publication(nodes, network, config, cores),
    ]


def _ingest(counts: Counts, cores: int) -> Forecast:
    nodes = counts.items + counts.contexts
    seconds = _FIXED["ingest_graph"] + counts.rows * _INGEST / cores
    written = counts.edges * _EDGE_BYTES + nodes * _NODE_BYTES
    return Forecast("ingest_graph", seconds, written, scratch=counts.rows * _ROW_BYTES)


def _features(nodes: Mapping[NodeType, int], widths: Mapping[NodeType, int], cores: int) -> Forecast:
    rows = sum(nodes[one] for one, width in widths.items() if width)
    written = sum(4 * width * nodes[one] for one, width in widths.items())
    return Forecast("build_features", _FIXED["build_features"] + rows * _FEATURES / cores, written)


def _walks(counts: Counts, nodes: Mapping[NodeType, int], config: Config, cores: int) -> Forecast:
    walks, seconds, rows = config.walks, _FIXED["build_neighborhoods"] + counts.edges * _GRAPH / cores, 0
    weighted = config.weighted or bool(walks.context_weight_exponent)
    graph = shuffled = 0
    for relation in walked_relations(config.model):
        plan = plan_walks(counts.items, counts.contexts, counts.edges, weighted, relation, walks)
        spent = counts.edges * _PUSH if plan.core_seconds is None else plan.core_seconds
        seconds += spent / cores
        rows += nodes[target_of(relation)]
        graph, shuffled = plan.bytes_per_host, max(shuffled, plan.shuffled_bytes)
    written = graph + rows * 8 * walks.num_neighbors
    return Forecast("build_neighborhoods", seconds, written, scratch=shuffled, mapped=graph)


def _training(
    counts: Counts, nodes: Mapping[NodeType, int], network: Network, config: Config, cores: int
) -> Forecast:
    training, fit, width = config.training, config.model.fit(), network.embedding_size("item")
    examples = training.context_fraction * counts.edges
    if fit.examples == "pairs":
        examples = min(examples, training.context_fraction * counts.contexts * training.pairs_per_context)
    examples *= training.epochs
    sizes = {name: math.prod(shape) for name, shape in network.tensors().items()}
    dense = sum(size for name, size in sizes.items() if not name.startswith(TABLE))
    seconds = _FIXED["train_model"]
    seconds += examples * (_EXAMPLE + _EXAMPLE_COLUMN * width * training.batch_size / 2048)
    seconds += examples / training.batch_size * _met(counts, config) * dense * _MULTIPLIED / cores
    tables = 4 * sum(sizes.values())
    read = sum(4 * (one.feature_width or 0) * nodes[node] for node, one in network.inputs.items())
    copies = 3 + (training.validation_fraction > 0)  # rows, two moments, the best rows
    return Forecast(
        "train_model", seconds, tables, scratch=read + 3 * tables, mapped=read, held=copies * tables
    )


def _met(counts: Counts, config: Config) -> float:
    """Items below a minibatch, drawn evenly: those of its histories, and their neighbors in each layer."""
    training, fit = config.training, config.model.fit()
    if fit.whole_graph:
        return counts.items + counts.contexts
    own = min(training.max_history, counts.edges / max(counts.contexts, 1)) if fit.leave_out else 1
    layers = config.model.network(NO_SHAPES).layers
    hops = sum(one.neighbors == "walks" for updates in layers for one in updates)
    drawn = training.batch_size * (1 + own) * (1 + training.train_neighbors) ** hops
    return counts.items * -math.expm1(-drawn / max(counts.items, 1))


def _layers(
    counts: Counts, nodes: Mapping[NodeType, int], network: Network, config: Config, cores: int
) -> Forecast:
    seconds = _FIXED["infer_layers"] + sum(nodes[one] for one in network.outputs) * _EMBEDDED / cores
    mapped: dict[int, int] = {}
    for plan in plan_updates(network, nodes, config.inference, cores):
        pooled = counts.edges
        if plan.update.neighbors == "walks":
            pooled = plan.targets * config.walks.num_neighbors
        seconds += (pooled + plan.targets) * plan.width * _POOLED / cores
        mapped[plan.layer] = mapped.get(plan.layer, 0) + plan.cached_bytes
    widths = network.widths()
    inner = sum(
        4 * width[update.target] * nodes[update.target]
        for width, updates in zip(widths[1:], network.layers[:-1], strict=False)
        for update in updates
    )
    written = inner + sum(4 * network.output_width(one) * nodes[one] for one in network.outputs)
    most = max(mapped.values(), default=0)
    return Forecast("infer_layers", seconds, written, scratch=most, mapped=most)


def searches(
    network: Network, nodes: Mapping[NodeType, int], rules: Index, before: Mapping[str, Before]
) -> list[Search]:
    """The batches of top lists that a run searches.

    Args:
        before: What an earlier run chose, by product; see `index.plan.forecast`.
    """
    items, width = nodes["item"], network.embedding_size("item")
    found = [
        search(
            RELATED.name, items, items, width, rules.num_related, rules, before.get(RELATED.name),
            shared=not network.score.support,
        )
    ]  # fmt: skip
    if recommends(network, nodes["context"], rules):  # the prior is one more coordinate
        name = RECOMMENDATIONS.name
        asked, k = nodes["context"], rules.num_recommended
        found.append(search(name, asked, items, width + 1, k, rules, before.get(name), shared=False))
    return found


def _index(nodes: Mapping[NodeType, int], network: Network, config: Config, cores: int) -> Forecast:
    rules, items = config.index, nodes["item"]
    batches = searches(network, nodes, rules, {})
    scratch = max(one.scratch_bytes for one in batches)
    listed = sum(one.num_queries * min(one.k, items) for one in batches)
    coded = sum(nodes[one] for one in network.outputs)
    core_seconds = sum(one.core_seconds for one in batches) + listed * _LISTED + coded * _CODED
    buckets = items * (rules.lsh_bits // rules.lsh.band_bits)
    written = listed * _LIST_BYTES + coded * sum(rules.code_bits) // 8 + buckets * _BUCKET_BYTES
    seconds = _FIXED["build_index"] + core_seconds / cores
    return Forecast("build_index", seconds, written, scratch=scratch, mapped=scratch)


def _publication(nodes: Mapping[NodeType, int], network: Network, config: Config, cores: int) -> Forecast:
    read = sum(nodes[one] for one in network.outputs) * (1 + config.index.num_related / 20)
    return Forecast("publish_run", _FIXED["publish_run"] + read * _AUDITED / cores)


def explained(stages: Sequence[Forecast]) -> str:
    """One line a stage: seconds, and bytes on disk and in memory."""
    lines = [f"{'stage':<22}{'seconds':>9}{'written':>12}{'scratch':>12}{'mapped':>12}{'in memory':>12}"]
    for one in stages:
        sizes = "".join(f"{size_text(size):>12}" for size in (one.written, one.scratch, one.mapped, one.held))
        lines.append(f"{one.stage:<22}{one.seconds:>9,.0f}{sizes}")
    written = sum(one.written for one in stages)
    disk = max(one.scratch for one in stages)
    seconds = sum(one.seconds for one in stages)
    lines.append(f"{'day':<22}{seconds:>9,.0f}{size_text(written):>12}{size_text(disk):>12}")
    return "\n".join(lines)
