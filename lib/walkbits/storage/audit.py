"""What must hold between a run's tables, checked on re-read data before it is published.

Every rule gives one sentence when it is broken; all broken rules are reported together.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.config import Audit, Config
from walkbits.errors import AuditError
from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import codes_from_embeddings
from walkbits.schemas import CODES, EMBEDDINGS, ITEM, LSH_BUCKETS, NODES, PUBLISHED, RELATED, Table
from walkbits.storage.tables import Store, Written, fingerprint_columns, fingerprint_text


def audit(store: Store, config: Config, run_id: str, logged: list[Written], live_run_id: str | None) -> None:
    """Check a run's published tables against the log, against each other and against the live run.

    Args:
        logged: Outputs of the run's stages; those of published tables must re-read the same.
        live_run_id: The run that readers see now, None before the first.

    Raises:
        AuditError: names each broken rule.
    """
    broken = [*_nodes(store, run_id), *_embeddings(store, run_id, config.audit)]
    # Codes of embeddings that are broken in themselves prove nothing.
    broken += [] if broken else _derived(store, config, run_id)
    broken += [
        *_unchanged(store, run_id, logged),
        *_related(store, run_id, config.index.num_related),
        *([] if live_run_id is None else _no_loss(store, run_id, live_run_id, config.audit)),
    ]
    if broken:
        raise AuditError(f"run {run_id}: {'; '.join(broken)}; nothing was published")


def _unchanged(store: Store, run_id: str, logged: list[Written]) -> Iterator[str]:
    expected = {output.output: (output.rows, output.fingerprint) for output in logged}
    for table in PUBLISHED:
        found = store.fingerprint(table, run_id)
        if expected.get(table.name) != found:
            yield f"{table.name} must re-read as logged {expected.get(table.name)}, got {found}"


def _nodes(store: Store, run_id: str) -> Iterator[str]:
    nodes = store.read(NODES, run_id=run_id)
    row = nodes.agg(
        F.count(F.lit(1)).alias("rows"), F.count_distinct("node_id").alias("ids"),
        F.count_distinct("node_type", "external_id").alias("names"), F.max("node_id").alias("last"),
    ).collect()[0]  # fmt: skip
    if not row["rows"] == row["ids"] == row["names"] == row["last"] + 1:
        yield f"nodes must be dense and unique, got {row.asDict()}"


def _embeddings(store: Store, run_id: str, rules: Audit) -> Iterator[str]:
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    total = "aggregate(embedding, 0D, (sum, x) -> sum + x * x)"
    norm = F.sqrt(F.expr(total))
    bad_norm = (norm > 0) & (F.abs(norm - 1) > rules.norm_tolerance)
    # NaN compares as equal to itself and above all numbers here, so it is asked for by name.
    row = embeddings.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_distinct("node_id").alias("ids"),
        F.count_distinct(F.size("embedding")).alias("widths"),
        F.count_if(F.isnan(norm) | (norm == float("inf"))).alias("not_finite"),
        F.count_if(bad_norm & ~F.isnan(norm)).alias("bad_norm"),
    ).collect()[0]
    if row["rows"] != row["ids"]:
        yield f"embeddings must hold each node once, got {row['rows']} rows of {row['ids']} nodes"
    if row["widths"] != 1:
        yield f"embeddings must have one width, got {row['widths']}"
    if row["not_finite"]:
        yield f"embeddings must be finite, got {row['not_finite']} rows that are not"
    if row["bad_norm"]:
        yield f"embeddings must have length 1 +- {rules.norm_tolerance:g} or 0, got {row['bad_norm']} others"
    nodes = store.read(NODES, run_id=run_id)
    types = embeddings.select("node_type").distinct()
    without = (
        nodes.join(types, "node_type", "left_semi")
        .join(embeddings.select("node_id", "external_id"), ["node_id", "external_id"], "left_anti")
        .count()
    )
    if without:
        yield f"embeddings must cover every node of their types, got {without} nodes without"


def _derived(store: Store, config: Config, run_id: str) -> Iterator[str]:
    """Codes are the signs of the embeddings, buckets the bands of the codes: computed again."""
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    codes = store.read(CODES, run_id=run_id)
    again = codes_from_embeddings(embeddings, config.index, config.seed)
    yield from _same(CODES, codes, again)
    banded = codes.where((F.col("code_bits") == config.index.lsh_bits) & (F.col("node_type") == ITEM))
    yield from _same(
        LSH_BUCKETS, store.read(LSH_BUCKETS, run_id=run_id), buckets_from_codes(banded, config.index)
    )


def _same(table: Table, committed: DataFrame, again: DataFrame) -> Iterator[str]:
    found, expected = (
        fingerprint_text(frame.agg(*fingerprint_columns(table)).collect()[0].asDict())
        for frame in (committed, again)
    )
    if found != expected:
        yield f"{table.name} must equal what its source gives ({expected}), got {found}"


def _related(store: Store, run_id: str, num_related: int) -> Iterator[str]:
    related = store.read(RELATED, run_id=run_id)
    items = store.read(NODES, run_id=run_id).where(F.col("node_type") == ITEM).select("external_id")
    num_items = items.count()
    row = related.agg(
        F.count(F.lit(1)).alias("rows"), F.count_distinct("item_id", "rank").alias("keys"),
        F.count_if(F.col("item_id") == F.col("related_id")).alias("own"),
        F.count_if((F.col("rank") < 1) | (F.col("rank") > num_related)).alias("bad_rank"),
    ).collect()[0]  # fmt: skip
    expected = num_items * min(num_related, num_items - 1)
    if row["rows"] != expected or row["keys"] != expected:
        yield f"related must hold {expected} distinct (item, rank), got {row['keys']} in {row['rows']} rows"
    if row["own"] or row["bad_rank"]:
        bad = row["own"] + row["bad_rank"]
        yield f"related must rank other items from 1 to {num_related}, got {bad} bad rows"
    orphans = related.join(items, related.related_id == items.external_id, "left_anti").count()
    if orphans:
        yield f"related must name items of the run, got {orphans} rows that do not"


def _no_loss(store: Store, run_id: str, live_run_id: str, rules: Audit) -> Iterator[str]:
    """A run that lost much of what is live is not published over it."""
    for table in (NODES, EMBEDDINGS):
        new, live = (store.read(table, run_id=run).count() for run in (run_id, live_run_id))
        if new < (1 - rules.max_row_drop) * live:
            yield (
                f"audit.max_row_drop: {table.name} may lose at most {rules.max_row_drop:.0%} against live "
                f"{live_run_id}, got {new} rows after {live}"
            )
