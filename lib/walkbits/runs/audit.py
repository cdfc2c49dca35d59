"""What must hold between a run's tables, checked on re-read data before it is published.

Every rule gives one sentence when it is broken; all broken rules are reported together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial, reduce
from typing import TypeVar

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.arrays.places import Place
from walkbits.config import Config
from walkbits.errors import InputError
from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import codes_from_embeddings
from walkbits.models.card import Card
from walkbits.network.declaration import Network
from walkbits.runs.geometry import code_health, geometry
from walkbits.runs.log import logged_stages, metric, outputs_of
from walkbits.runs.pointer import Pointer
from walkbits.runs.recall import below_target, list_recall, products_of
from walkbits.schemas import CODES, EMBEDDINGS, ITEM, LSH_BUCKETS, NODES, RELATED, TABLES
from walkbits.session import at_once
from walkbits.settings import Audit
from walkbits.spark_errors import recognised
from walkbits.tables.commits import parse_output
from walkbits.tables.fingerprints import fingerprints_of
from walkbits.tables.store import Store, Written

LOG = logging.getLogger("walkbits")

T = TypeVar("T")
Figures = dict[str, tuple[float, str]]
"""Name -> (value, unit), as `run_metrics` holds them."""

RECALL_SAMPLE = 500
"""Items, about, whose related items are looked up through the buckets."""


def audit(
    store: Store,
    config: Config,
    run_id: str,
    logged: list[Written],
    card: Card,
    live: Pointer | None,
    graph: Place,
) -> tuple[Figures, list[str]]:
    """Check a run's published tables against the log, against each other and against the live run.

    Args:
        logged: Outputs of the run's stages; those of published tables must re-read the same.
        card: Of the run's model; only embeddings of one model can be compared, and it says what they must be.
        live: What readers see now, None before the first publication.
        graph: Folder of the run's graph.

    Returns:
        The figures that were measured, and one sentence per broken rule.
    """
    with at_once(store.spark) as submit:
        reread, counted = submit(committed, store, run_id, logged), submit(_nodes, store, run_id)
        embedded = submit(list, _embeddings(store, run_id, card.network, config.audit))
    found, (num_items, num_contexts, broken) = reread.result(), counted.result()
    broken += embedded.result()
    # Generators run where `list` takes from them: in a thread.
    rules: list[Future[list[str]]] = []
    lists: dict[str, Future[tuple[float, float, int]]] = {}
    measured: list[Future[Figures | None]] = []
    with at_once(store.spark) as submit:
        # Codes and lists of embeddings that are broken in themselves prove nothing.
        if not broken:
            rules.append(submit(list, derived(store, config, run_id, card.network, found)))
            for product in products_of(card.network, num_items, num_contexts, config.index, graph):
                lists[product.table.name] = submit(list_recall, store, run_id, product, config.seed)
        rules.append(submit(list, _related(store, run_id, num_items, config.index.num_related)))
        if live is not None:
            rules.append(submit(list, _no_loss(store, found, live.run_id, config.audit)))
        measured.append(submit(_recall, store, config, run_id, num_items))
        measured.append(submit(geometry, store, run_id, config.seed, num_items))
        measured.append(submit(code_health, store, run_id, config.index.lsh_bits, config.seed, num_items))
        if live is not None and live.model_version == card.model_version:
            drift = partial(_drift, store, config, run_id, live.run_id)
            measured.append(submit(_if_readable, live.run_id, drift))
    figures: Figures = {}
    for name, recall in lists.items():
        figures[f"list_recall[{name}]"] = (recall.result()[0], "ratio")
        broken += below_target(name, recall.result(), config.index.target_recall)
    broken += differing(found, logged)
    for rule in rules:
        broken += rule.result()
    for one in measured:
        figures |= one.result() or {}
    before = None if live is None else metric(store, live.run_id, "audit_run", "bucket_recall")
    return figures, [*broken, *gates(figures, before, config.audit)]


def _if_readable(live_run_id: str, read: Callable[[], T]) -> T | None:
    """What the published run's tables say; None where a file of theirs is lost, so that the next day can
    replace it.
    """
    try:
        return read()
    except (PySparkException, Py4JError) as error:
        known = recognised(error)
        if not isinstance(known, InputError):
            raise
        LOG.warning("run=%s state=damaged: the published run cannot be compared with: %s", live_run_id, known)
        return None


def gates(figures: Figures, recall_before: float | None, rules: Audit) -> Iterator[str]:
    """The figures against their thresholds; NaN breaks every threshold.

    Args:
        recall_before: `bucket_recall` of the published run, None when there is none.
    """
    floors = {
        "cosine[item]": ("min_cosine", rules.min_cosine),
        "bucket_recall": ("min_recall", rules.min_recall),
        "distinct_vectors[item]": ("min_distinct_vectors", rules.min_distinct_vectors),
    }
    for name, (rule, least) in floors.items():
        if name in figures and not figures[name][0] >= least:
            yield f"audit.{rule}: {name} must be at least {least:g}, got {figures[name][0]:.3f}"
    ceilings = {
        "bits_flipped[item]": ("max_bits_flipped", rules.max_bits_flipped),
        "zero_vectors[item]": ("max_zero_vectors", rules.max_zero_vectors),
        "random_cosine[item]": ("max_random_cosine", rules.max_random_cosine),
        "constant_bits[item]": ("max_constant_bits", rules.max_constant_bits),
    }
    for name, (rule, most) in ceilings.items():
        if name in figures and not figures[name][0] <= most:
            yield f"audit.{rule}: {name} may be at most {most:g}, got {figures[name][0]:.3f}"
    near, random = (figures.get(f"{pairs}_cosine[item]") for pairs in ("neighbor", "random"))
    if near is not None and random is not None and not near[0] >= random[0] + rules.min_neighbor_lift:
        yield (
            f"audit.min_neighbor_lift: neighbor_cosine[item] must be at least {rules.min_neighbor_lift:g} "
            f"above random_cosine[item], got {near[0]:.3f} and {random[0]:.3f}"
        )
    recall = figures.get("bucket_recall")
    if (
        recall is not None
        and recall_before is not None
        and not recall[0] >= recall_before - rules.max_recall_drop
    ):
        yield (
            f"audit.max_recall_drop: bucket_recall may fall by at most {rules.max_recall_drop:g}, "
            f"got {recall[0]:.3f} after {recall_before:.3f}"
        )


def _recall(store: Store, config: Config, run_id: str, num_items: int) -> Figures:
    """How many related items share enough buckets with their item, on a keyed sample of items."""
    related = store.read(RELATED, run_id=run_id)
    step = max(1, num_items // RECALL_SAMPLE)
    pairs = related.where(F.pmod(F.xxhash64(F.lit(config.seed), "item_id"), F.lit(step)) == 0)
    pairs = pairs.select("item_id", "related_id")
    buckets = store.read(LSH_BUCKETS, run_id=run_id).select("band", "bucket", "external_id")
    mine = buckets.select("band", F.col("bucket").alias("own"), F.col("external_id").alias("item_id"))
    theirs = buckets.select("band", "bucket", F.col("external_id").alias("related_id"))
    shared = F.count_if(F.col("own") == F.col("bucket"))
    found = (
        pairs.join(mine, "item_id", "inner").join(theirs, ["related_id", "band"], "inner")
        .groupBy("item_id", "related_id").agg((shared >= config.index.lsh.min_bands).alias("found"))
    )  # fmt: skip
    row = found.agg(F.count(F.lit(1)).alias("pairs"), F.count_if("found").alias("found")).collect()[0]
    return {"bucket_recall": (row["found"] / row["pairs"], "ratio")} if row["pairs"] else {}


def _drift(store: Store, config: Config, run_id: str, live_run_id: str) -> Figures:
    """Mean cosine and share of flipped bits of the nodes that both runs hold, per node type.

    Zero vectors are left out: they have no direction.
    """
    key = ["node_type", "external_id"]

    def of(run: str, suffix: str) -> DataFrame:
        embeddings = store.read(EMBEDDINGS, run_id=run).select(*key, F.col("embedding").alias(f"x{suffix}"))
        codes = store.read(CODES, run_id=run, code_bits=config.index.lsh_bits)
        return embeddings.join(codes.select(*key, F.col("code").alias(f"c{suffix}")), key, "inner")

    flips = F.expr("aggregate(zip_with(c1, c2, (a, b) -> bit_count(a ^ b)), 0, (s, v) -> s + v)")
    both = of(run_id, "1").join(of(live_run_id, "2"), key, "inner")
    same_width = F.size("x1") == F.size("x2")
    rows = (
        both.where(same_width).groupBy("node_type")
        .agg(
            F.avg(F.expr("vector_cosine_similarity(x1, x2)")).alias("cosine"),
            F.avg(flips / config.index.lsh_bits).alias("flipped"),
            F.count(F.lit(1)).alias("common"),
        ).collect()
    )  # fmt: skip
    figures: Figures = {}
    for row in rows:
        kind = row["node_type"]
        figures[f"common[{kind}]"] = (float(row["common"]), "rows")
        if row["cosine"] is not None:
            figures[f"cosine[{kind}]"] = (float(row["cosine"]), "ratio")
        figures[f"bits_flipped[{kind}]"] = (float(row["flipped"]), "ratio")
    return figures


Committed = dict[str, tuple[int, str]]
"""Output in a published table -> rows and checksum as re-read."""


def changed(store: Store, run_id: str, logged: list[Written]) -> Iterator[str]:
    """One sentence per published table that does not re-read as it was logged."""
    return differing(committed(store, run_id, logged), logged)


def committed(store: Store, run_id: str, logged: list[Written]) -> Committed:
    """The outputs as they re-read now."""
    named = [(TABLES[name], partition) for name, partition in (parse_output(one.output) for one in logged)]
    found = fingerprints_of(
        [(table, store.read(table, run_id=run_id, **partition)) for table, partition in named]
    )
    return dict(zip((one.output for one in logged), found, strict=True))


def differing(found: Committed, logged: list[Written]) -> Iterator[str]:
    """One sentence per output that is not as it was logged."""
    expected = {output.output: (output.rows, output.fingerprint) for output in logged}
    for name, committed in found.items():
        if expected.get(name) != committed:
            yield f"{name} must re-read as logged {expected.get(name)}, got {committed}"


def _nodes(store: Store, run_id: str) -> tuple[int, int, list[str]]:
    """Number of items and of contexts, and what is wrong."""
    nodes = store.read(NODES, run_id=run_id)
    row = nodes.agg(
        F.count(F.lit(1)).alias("rows"), F.count_distinct("node_id").alias("ids"),
        F.count_distinct("node_type", "external_id").alias("names"), F.max("node_id").alias("last"),
        F.count_if(F.col("node_type") == ITEM).alias("items"),
    ).collect()[0]  # fmt: skip
    seen = {name: row[name] for name in ("rows", "ids", "names", "last")}
    dense = row["rows"] == row["ids"] == row["names"] == (row["last"] or 0) + 1
    wrong = [] if dense else [f"nodes must be dense and unique, got {seen}"]
    return row["items"], row["rows"] - row["items"], wrong


def _embeddings(store: Store, run_id: str, network: Network, rules: Audit) -> Iterator[str]:
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    total = "aggregate(embedding, 0D, (sum, x) -> sum + x * x)"
    norm = F.sqrt(F.expr(total))
    unit = [one for one, output in network.outputs.items() if output.normalise]
    bad_norm = F.col("node_type").isin(unit) & (norm > 0) & (F.abs(norm - 1) > rules.norm_tolerance)
    # NaN compares as equal to itself and above all numbers here, so it is asked for by name.
    row = embeddings.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_distinct("node_id").alias("ids"),
        F.count_distinct(F.size("embedding")).alias("widths"),
        F.count_if(
            F.isnan(norm) | (norm == float("inf")) | F.isnan("prior") | (F.abs("prior") == float("inf"))
        ).alias("not_finite"),
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


def derived(store: Store, config: Config, run_id: str, network: Network, found: Committed) -> Iterator[str]:
    """Codes are the signs of the embeddings, buckets the bands of the codes: computed again."""
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    codes = store.read(CODES, run_id=run_id)
    banded = codes.where((F.col("code_bits") == config.index.lsh_bits) & (F.col("node_type") == ITEM))
    again = fingerprints_of(
        [
            (
                CODES,
                codes_from_embeddings(embeddings, config.index, config.seed, learned=network.learned_codes),
            ),
            (LSH_BUCKETS, buckets_from_codes(banded, config.index)),
        ]
    )
    for table, (_, expected) in zip((CODES, LSH_BUCKETS), again, strict=True):
        if found[table.name][1] != expected:
            yield f"{table.name} must equal what its source gives ({expected}), got {found[table.name][1]}"


def _related(store: Store, run_id: str, num_items: int, num_related: int) -> Iterator[str]:
    related = store.read(RELATED, run_id=run_id)
    items = store.read(NODES, run_id=run_id).where(F.col("node_type") == ITEM).select("external_id")
    row = related.agg(
        F.count(F.lit(1)).alias("rows"), F.count_distinct("item_id", "rank").alias("keys"),
        F.count_if(F.col("item_id") == F.col("related_id")).alias("own"),
        F.count_if((F.col("rank") < 1) | (F.col("rank") > num_related)).alias("bad_rank"),
    ).collect()[0]  # fmt: skip
    expected = num_items * min(num_related, max(num_items - 1, 0))
    if row["rows"] != expected or row["keys"] != expected:
        yield f"related must hold {expected} distinct (item, rank), got {row['keys']} in {row['rows']} rows"
    if row["own"] or row["bad_rank"]:
        bad = row["own"] + row["bad_rank"]
        yield f"related must rank other items from 1 to {num_related}, got {bad} bad rows"
    orphans = related.join(items, related.related_id == items.external_id, "left_anti").count()
    if orphans:
        yield f"related must name items of the run, got {orphans} rows that do not"


def _no_loss(store: Store, found: Committed, live_run_id: str, rules: Audit) -> Iterator[str]:
    """A run that lost much of what is live is not published over it."""
    tables = (NODES, EMBEDDINGS)

    def counted() -> dict[str, int]:
        names = [
            store.read(table, run_id=live_run_id).select(F.lit(table.name).alias("name")) for table in tables
        ]
        rows = reduce(DataFrame.union, names).groupBy("name").agg(F.count(F.lit(1))).collect()
        return {row[0]: row[1] for row in rows}

    live = _if_readable(live_run_id, counted)
    if live is None:
        outputs = outputs_of(logged_stages(store, live_run_id), tables)
        live = {parse_output(one.output)[0]: one.rows for one in outputs}
    for table in tables:
        new, before = found[table.name][0], live.get(table.name, 0)
        if new < (1 - rules.max_row_drop) * before:
            yield (
                f"audit.max_row_drop: {table.name} may lose at most {rules.max_row_drop:.0%} against live "
                f"{live_run_id}, got {new} rows after {before}"
            )
