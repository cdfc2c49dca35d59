"""Every table of walkbits: columns with type, unit, shape and nullability; keys; constraints.

This module is the only home of a table's shape. The Delta tables are created from it, and
every read selects these columns, so that a foreign extra column never travels.

`index` of a node is its position within its type (item or context), in order of the
external id; `node_id` is the index for items and number of items + index for contexts.
Both are internal to a run. Tables that people query carry `external_id`.
"""

from __future__ import annotations

from typing import Final

from walkbits.columns import Column as Column
from walkbits.columns import Table as Table

ITEM: Final = "item"
CONTEXT: Final = "context"

LIVE: Final = "live"
"""The channel that the published views follow."""

WEIGHT_SCALE: Final = 1 << 20
"""Fixed point of edge weights: integer sums do not depend on row order."""

RUN_ID = Column("run_id", "STRING", "Run that wrote the row, yyyymmdd-<8 hex>-a<attempt>")
NODE_TYPE = Column("node_type", "STRING", "item or context")
NODE_ID = Column("node_id", "BIGINT", "Dense id within the run: items first, then contexts")
EXTERNAL_ID = Column("external_id", "STRING", "Id of the node in the caller's data, exact")
NODE = (NODE_TYPE, NODE_ID, EXTERNAL_ID)
EDGE = (Column("item", "INT", "Index of the item"), Column("context", "INT", "Index of the context"))
RANK = Column("rank", "INT", "1 is best; ties by node_id")
RECORDED_AT = Column("recorded_at", "TIMESTAMP", "When the row was written, UTC; order by seq, not by this")
SEQ = Column("seq", "BIGINT", "Rises from one commit to the table to the next; equal for rows of one commit")
NODE_TYPE_CHECK = {"node_type_known": "node_type IN ('item', 'context')"}

NODES = Table(
    "nodes",
    "Every item and context of a run.",
    (
        RUN_ID,
        *NODE,
        Column("name", "STRING", "What people read beside the id", nullable=True),
        Column("node_key", "BIGINT", "64-bit hash of (type, external id): keys the node's draws"),
        Column("degree", "BIGINT", "Edges of the node"),
    ),
    key=("run_id", "node_id"),
    checks={**NODE_TYPE_CHECK, "degree_not_negative": "degree >= 0"},
)

EDGES = Table(
    "edges",
    "Item-context edges, aggregated: one row per pair.",
    (
        RUN_ID,
        *EDGE,
        Column("weight", "BIGINT", "Summed weight in units of run_metrics `weight_unit`, a power of two"),
        Column("interactions", "BIGINT", "Raw rows behind the edge"),
    ),
    key=("run_id", "item", "context"),
    checks={"weight_positive": "weight > 0"},
)

HOLDOUT = Table(
    "holdout",
    "Edges set aside for evaluation, absent from `edges`.",
    (RUN_ID, *EDGE),
    key=("run_id", "context"),
)

IMPRESSIONS = Table(
    "impressions",
    "Pairs that were shown and not taken: none of them is an edge.",
    (RUN_ID, *EDGE, Column("count", "BIGINT", "Times shown")),
    key=("run_id", "item", "context"),
    checks={"count_positive": "count > 0"},
)

FEATURES = Table(
    "features",
    "Features of the node types that have any, in the layout of the run's feature space.",
    (RUN_ID, NODE_TYPE, NODE_ID, Column("features", "BINARY", "little-endian fp32, [feature_width]")),
    key=("run_id", "node_id"),
    partition_by=("run_id", "node_type"),
    checks=NODE_TYPE_CHECK,
    compression="uncompressed",
)

QUARANTINE = Table(
    "quarantine",
    "Input rows that were set aside, with the reason.",
    (
        RUN_ID,
        Column("source", "STRING", "interactions, items, contexts or impressions"),
        Column("reason", "STRING", "Rule that the row broke"),
        Column("row", "STRING", "The row as JSON"),
    ),
    key=(),
)

NEIGHBORHOODS = Table(
    "neighborhoods",
    "Top-T nodes by visit count of random walks; every node of the target type has a row.",
    (
        RUN_ID,
        Column("relation", "STRING", "<target type>_from_<source type>"),
        Column("node", "INT", "Index of the target node"),
        Column("neighbors", "BINARY", "little-endian int32, by visits / degree^penalty, [<= T]"),
        Column("visits", "BINARY", "little-endian int32 counts, same order; weight = visits / their sum"),
    ),
    key=("run_id", "relation", "node"),
    partition_by=("run_id", "relation"),
    checks={"same_length": "length(neighbors) = length(visits)"},
    compression="uncompressed",  # random indices: zstd takes a tenth of the stage and saves a quarter
)

REPRESENTATIONS = Table(
    "representations",
    "Output of every layer but the last: h^l of each node, once.",
    (
        RUN_ID,
        Column("layer", "INT", "1 for the first convolution"),
        NODE_TYPE,
        Column("node", "INT", "Index of the node"),
        Column("representation", "BINARY", "little-endian fp32 vector, [width of the layer]"),
    ),
    key=("run_id", "layer", "node_type", "node"),
    partition_by=("run_id", "layer"),
    compression="uncompressed",
)

EMBEDDINGS = Table(
    "embeddings",
    "Final embedding of each node.",
    (
        RUN_ID,
        *NODE,
        Column("embedding", "ARRAY<FLOAT>", "Unit length where the model normalises, [embedding_size]"),
        Column("prior", "FLOAT", "Added to an inner product with a context's embedding; 0 without a prior"),
    ),
    key=("run_id", "node_id"),
    checks=NODE_TYPE_CHECK,
    compression="uncompressed",
)

CODES = Table(
    "codes",
    "Sign codes of each embedding, one row per width.",
    (
        RUN_ID,
        Column("code_bits", "INT", "Width of the code in bits"),
        *NODE,
        Column(
            "code",
            "ARRAY<BIGINT>",
            "64-bit words, least significant bit first, bit = (x > 0), [code_bits / 64]",
        ),
        Column("scale", "FLOAT", "Times the bits' signs and a float query: the inner product, about"),
        Column(
            "prior_code", "BIGINT", "64 more bits for context to item: the prior in ones; contexts: all ones"
        ),
    ),
    key=("run_id", "code_bits", "node_id"),
    partition_by=("run_id", "code_bits"),
    checks={**NODE_TYPE_CHECK, "code_width": "size(code) * 64 = code_bits"},
)

LSH_BUCKETS = Table(
    "lsh_buckets",
    "Bands of the items' codes: which items share a bucket.",
    (
        RUN_ID,
        Column("band", "INT", "Number of the band, from 0"),
        Column("bucket", "BIGINT", "The band's bits of the code as a number"),
        NODE_ID,
        EXTERNAL_ID,
    ),
    key=("run_id", "band", "node_id"),
    checks={"bucket_not_negative": "bucket >= 0"},
)

CODE_DIRECTIONS = Table(
    "code_directions",
    "What the bits of codes are the signs of: the products of an embedding with these directions.",
    (
        RUN_ID,
        Column("bit", "INT", "Number of the bit, from 0; digits of further planes are no products"),
        Column("band", "INT", "Band of lsh_buckets that it is part of; null of none", nullable=True),
        Column("place", "INT", "Its place in the bucket's number; null of none", nullable=True),
        Column("direction", "ARRAY<FLOAT>", "[embedding_size]; a unit vector of a learned code"),
    ),
    key=("run_id", "bit"),
)

RELATED = Table(
    "related",
    "For every item its nearest items by the model's score between items.",
    (
        RUN_ID,
        Column("item_id", "STRING", "External id of the item"),
        RANK,
        Column("related_id", "STRING", "External id of the related item"),
        Column("score", "FLOAT", "Cosine of the embeddings x n / (n + support), n contexts of related_id"),
    ),
    key=("run_id", "item_id", "rank"),
    checks={"rank_positive": "rank >= 1"},
)

RECOMMENDATIONS = Table(
    "recommendations",
    "For every context the items that it has not touched, by score; of models that embed contexts.",
    (
        RUN_ID,
        Column("context_id", "STRING", "External id of the context"),
        RANK,
        Column("item_id", "STRING", "External id of the item"),
        Column("score", "FLOAT", "Inner product of the two embeddings + the item's prior"),
    ),
    key=("run_id", "context_id", "rank"),
    checks={"rank_positive": "rank >= 1"},
)

INDEX_CARD = Table(
    "index_card",
    "How `related` and `recommendations` were searched: recall by cells scored, on a sample of queries.",
    (
        RUN_ID,
        Column("product", "STRING", "related or recommendations"),
        Column(
            "gap",
            "DOUBLE",
            "Cells are scored up to this cosine behind the nearest; null: scan",
            nullable=True,
        ),
        Column("cells", "DOUBLE", "Cells scored per query, on average; 0 of a scan"),
        Column("recall", "DOUBLE", "Share of the exact lists found"),
        Column("recall_error", "DOUBLE", "Standard error of recall; 0 where all queries were measured"),
        Column("items_scored", "DOUBLE", "Items scored per query, on average"),
        Column("share_scored", "DOUBLE", "items_scored / items"),
        Column("chosen", "BOOLEAN", "Whether the lists were searched so: one row per product"),
    ),
    key=("run_id", "product", "gap"),
    checks={"product_known": "product IN ('related', 'recommendations')"},
)

RUN_METRICS = Table(
    "run_metrics",
    "Figures of a run.",
    (
        RUN_ID,
        Column("stage", "STRING", "Stage that measured it"),
        Column("metric", "STRING", "Name, e.g. overlap_at_t"),
        Column("value", "DOUBLE", "The figure"),
        Column("unit", "STRING", "rows, seconds, bytes, ratio, ..."),
        RECORDED_AT,
    ),
    key=("run_id", "stage", "metric"),
    partition_by=("run_id", "stage"),
)

RUNS = Table(
    "runs",
    "One row per state a run entered; the newest is the run's state.",
    (
        RUN_ID,
        Column("ds", "DATE", "Day the run is for"),
        Column("attempt", "INT", "From 1; counts runs of one day and fingerprint"),
        Column("inputs_fingerprint", "STRING", "sha256 of input data, config and code version"),
        Column("state", "STRING", "created, failed, audited, published, collecting or collected"),
        Column("detail", "STRING", "Why a run failed, in one line", nullable=True),
        Column("label", "STRING", "Name by which the jobs of one workflow find the run", nullable=True),
        Column("config", "STRING", "The whole configuration as JSON"),
        SEQ,
        RECORDED_AT,
    ),
    key=(),
    partition_by=(),
    checks={
        "state_known": "state IN ('created', 'failed', 'audited', 'published', 'collecting', 'collected')"
    },
)

STAGE_LOG = Table(
    "stage_log",
    "One row per finished stage and output; a stage resumes where its row and its data agree.",
    (
        RUN_ID,
        Column("stage", "STRING", "Stage that wrote the output"),
        Column("stage_key", "STRING", "sha256 of the stage's settings and upstream fingerprints"),
        Column("output", "STRING", "Table, or artifact folder, that was written"),
        Column("rows", "BIGINT", "Rows of the run's partition"),
        Column("fingerprint", "STRING", "Order-independent checksum of the rows, or sha256 of the artifact"),
        Column("bytes", "BIGINT", "Bytes written"),
        Column("seconds", "DOUBLE", "Wall time of the stage"),
        Column("delta_version", "BIGINT", "Version of the table after the commit", nullable=True),
        SEQ,
        RECORDED_AT,
    ),
    key=(),
    partition_by=(),
)

LEASES = Table(
    "leases",
    "Who drives a run, where drivers share no disk: the row of the highest seq, while it is fresh.",
    (
        RUN_ID,
        Column("seq", "BIGINT", "1, 2, 3, ... per run"),
        Column("fence", "BIGINT", "Number of the holder: rises from one to the next"),
        Column("holder", "STRING", "Process and host"),
        Column("released", "BOOLEAN", "The holder has ended"),
        RECORDED_AT,
    ),
    key=("run_id", "seq"),
    partition_by=(),
)

PUBLICATIONS = Table(
    "publications",
    "The pointer: appending a row makes a run visible, whole. Highest seq of a channel is live.",
    (
        Column("channel", "STRING", "live, or ds=<date> for a backfill"),
        Column("seq", "BIGINT", "1, 2, 3, ... per channel"),
        Column("ds", "DATE", "Day of the run"),
        RUN_ID,
        Column("prev_run_id", "STRING", "Run that was visible before", nullable=True),
        Column("model_version", "STRING", "First 12 hex digits of the weights' sha256"),
        Column("inputs_fingerprint", "STRING", "As in runs"),
        Column("rows", "BIGINT", "Rows over all published tables"),
        Column("sha", "STRING", "sha256 over the published tables' fingerprints"),
        Column("published_at", "TIMESTAMP", "UTC; order by seq, not by this"),
    ),
    key=("channel", "seq"),
    partition_by=(),
    checks={"seq_positive": "seq >= 1"},
)

GRAPH_PROFILE = Table(
    "graph_profile",
    "Shape of the graph: validation, degrees, components, k-cores.",
    (
        RUN_ID,
        Column("metric", "STRING", "degree, component_size, k_core_size or validation"),
        Column("node_type", "STRING", "item, context or all"),
        Column("bucket", "BIGINT", "Degree, component size, or k"),
        Column("nodes", "BIGINT", "Nodes in that bucket"),
    ),
    key=("run_id", "metric", "node_type", "bucket"),
)

EVALUATION = Table(
    "evaluation",
    "Offline quality on held-out edges, one row per task, model, metric and cut-off.",
    (
        RUN_ID,
        Column("task", "STRING", "context_to_item, item_to_item, or space: of the item vectors alone"),
        Column("split", "STRING", "How edges were held out: leave_one_out, random, temporal or given"),
        Column("model", "STRING", "embeddings, popularity, item_knn, or a way to search codes and its bits"),
        Column("metric", "STRING", "recall, ndcg, mean_cosine, ...: see evaluation.metrics"),
        Column("k", "INT", "Cut-off; 0 where there is none"),
        Column("value", "DOUBLE", "The figure"),
        Column("floor", "DOUBLE", "Popularity's figure on the same queries", nullable=True),
        Column("queries", "BIGINT", "Queries, or random pairs, behind the figure"),
        Column("seed", "BIGINT", "Seed of hold-out and training"),
    ),
    key=("run_id", "task", "model", "metric", "k"),
)

ALWAYS_PUBLISHED: Final = (NODES, EMBEDDINGS, CODES, LSH_BUCKETS, RELATED)
"""Tables that every published run has."""

PUBLISHED: Final = (*ALWAYS_PUBLISHED, NEIGHBORHOODS, RECOMMENDATIONS, INDEX_CARD, CODE_DIRECTIONS)
"""Tables that become visible together."""

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        NODES, EDGES, HOLDOUT, IMPRESSIONS, FEATURES, QUARANTINE, NEIGHBORHOODS, REPRESENTATIONS,
        EMBEDDINGS, CODES, CODE_DIRECTIONS, LSH_BUCKETS, RELATED, RECOMMENDATIONS, INDEX_CARD, RUN_METRICS,
        RUNS, STAGE_LOG, LEASES, PUBLICATIONS, GRAPH_PROFILE, EVALUATION,
    )
}  # fmt: skip
