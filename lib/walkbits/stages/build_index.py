"""Stage `build_index`: committed embeddings to codes, codes to buckets, embeddings to top lists."""

from __future__ import annotations

from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from walkbits.arrays.places import Place
from walkbits.forecast import searches
from walkbits.index.buckets import buckets_from_codes, clustered, direction_rows
from walkbits.index.codes import Coder, codes_from_embeddings
from walkbits.index.plan import Before, Plan, card_rows
from walkbits.index.related import recommended_items, recommends, related_forms, related_items, seen_in
from walkbits.models.card import read_card
from walkbits.network.declaration import Network
from walkbits.runs.pointer import read_pointer
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import (
    CODE_DIRECTIONS,
    CODES,
    CONTEXT,
    EMBEDDINGS,
    INDEX_CARD,
    ITEM,
    LSH_BUCKETS,
    NODES,
    RECOMMENDATIONS,
    RELATED,
    Table,
)
from walkbits.stages.build_neighborhoods import GRAPH, forecast_of, num_nodes
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Rows
from walkbits.tables.store import Written


def run(context: StageRun) -> list[Written]:
    """Each table is made from the committed one before it, never from a frame in memory."""
    config, store, run_id = context.config, context.store, context.run_id
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    network = read_card(context.artifacts(MODEL)).network
    codes = codes_from_embeddings(embeddings, config.index, config.seed, learned=network.learned_codes)
    written = [store.write(CODES, codes, run_id)]
    committed = store.read(CODES, run_id=run_id, code_bits=config.index.lsh_bits)
    buckets = buckets_from_codes(committed.where(F.col("node_type") == ITEM), config.index)
    written.append(store.write(LSH_BUCKETS, clustered(buckets), run_id))
    coder = Coder.of(config.index, config.seed, network.embedding_size(ITEM), learned=network.learned_codes)
    rows = direction_rows(coder, network.embedding_size(ITEM), config.index)
    directions = context.spark.createDataFrame(rows, _without_run(CODE_DIRECTIONS)).coalesce(1)
    written.append(store.write(CODE_DIRECTIONS, directions, run_id))
    with context.scratch("index") as scratch:
        written += _top_lists(context, network, scratch)
    return written


def _top_lists(context: StageRun, network: Network, scratch: Place) -> list[Written]:
    """Related items of every item, and where contexts have embeddings, recommended items of every context."""
    spark, store, run_id, config = context.spark, context.store, context.run_id, context.config
    counts = num_nodes(context)
    nodes = store.scan(NODES, ("node_id", "external_id"), run_id=run_id)
    names = ExternalIds.write(nodes, sum(counts.values()), scratch / "names")
    size = store.read(EMBEDDINGS, run_id=run_id).select(F.size("embedding")).first()
    width = size[0] if size else 0

    def embedded(node_type: str) -> Rows:
        return store.scan(EMBEDDINGS, ("node_id", "embedding", "prior"), run_id=run_id, node_type=node_type)

    graph = context.artifacts(GRAPH)
    queried, scored = related_forms(network, graph)
    related, plan = related_items(
        spark, embedded(ITEM), counts[ITEM], width, names, config.index, config.seed, scratch / "related",
        queried=queried, scored=scored,
    )  # fmt: skip
    # One item has no other that could be related to it.
    written = [store.write_rows(RELATED, [related], run_id, allow_empty=counts[ITEM] == 1)]
    plans = {"related": plan}
    if recommends(network, counts[CONTEXT], config.index):
        lists, plans["recommendations"] = recommended_items(
            spark, embedded(ITEM), embedded(CONTEXT), counts[ITEM], counts[CONTEXT], width, seen_in(graph),
            names, config.index, config.seed, scratch / "recommendations",
        )  # fmt: skip
        written.append(store.write_rows(RECOMMENDATIONS, [lists], run_id, allow_empty=True))
    rows = [row for kind, plan in plans.items() for row in card_rows(kind, plan, counts[ITEM])]
    card = spark.createDataFrame(rows, _without_run(INDEX_CARD)).coalesce(1)
    written.append(store.write(INDEX_CARD, card, run_id))
    context.measure(
        {name: figure for kind, plan in plans.items() for name, figure in _figures(kind, plan).items()}
    )
    return written


def _without_run(table: Table) -> StructType:
    return StructType(table.schema.fields[1:])


def explain(context: StageRun) -> str:
    """Candidates, bytes and seconds of both products before anything is built, as the live run chose."""
    config, counts = context.config.index, num_nodes(context)
    network = read_card(context.artifacts(MODEL)).network
    products = searches(network, counts, config, _live_choice(context))
    cores = context.spark.sparkContext.defaultParallelism
    nodes, bands = sum(counts[one] for one in network.outputs), config.lsh_bits // config.lsh.band_bits
    lines = [one.explain(cores) for one in products]
    size = nodes * sum(config.code_bits) // 8
    lines.append(f"codes: {nodes * len(config.code_bits):,} rows, {size:,} bytes")
    lines.append(f"lsh_buckets: {counts[ITEM] * bands:,} rows in {bands} bands")
    return "\n".join(lines)


def _live_choice(context: StageRun) -> dict[str, Before]:
    """What the published run chose, by product: its id, the gap, the share of its items that was scored."""
    pointer = read_pointer(context.store, context.config.channel)
    if pointer is None or not context.store.exists(INDEX_CARD):
        return {}
    rows = context.store.read(INDEX_CARD, run_id=pointer.run_id).where("chosen").collect()
    return {row["product"]: (pointer.run_id, row["gap"], row["share_scored"]) for row in rows}


def _figures(kind: str, plan: Plan) -> dict[str, tuple[float, str]]:
    return {
        f"search_recall[{kind}]": (plan.recall, "ratio"),
        f"items_scored[{kind}]": (plan.scored, "rows"),
        f"scanned[{kind}]": (float(plan.gap is None), "ratio"),
    }


STAGE = Stage(
    name="build_index",
    after=("build_neighborhoods", "train_model", "infer_layers"),
    settings=lambda config: (config.index,),
    run=run,
    explain=explain,
    needs=lambda context: forecast_of(context, "build_index"),
)
