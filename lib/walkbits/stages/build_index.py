"""Stage `build_index`: committed embeddings to codes, codes to buckets, embeddings to top lists."""

from __future__ import annotations

from pyspark.sql import functions as F

from walkbits.arrays.places import Place
from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import codes_from_embeddings
from walkbits.index.matrices import Supported, as_they_are, unit
from walkbits.index.nearest import Plan
from walkbits.index.related import Seen, recommended_items, related_items
from walkbits.models.card import read_card
from walkbits.network.declaration import Network
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CODES, CONTEXT, EMBEDDINGS, ITEM, LSH_BUCKETS, NODES, RECOMMENDATIONS, RELATED
from walkbits.stages.build_neighborhoods import GRAPH, num_nodes
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
    written.append(store.write(LSH_BUCKETS, buckets, run_id))
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

    form = as_they_are if network.outputs[ITEM].normalise else unit
    support, graph = network.score.support, context.artifacts(GRAPH)
    related, plan = related_items(
        spark, embedded(ITEM), counts[ITEM], width, names, config.index, config.seed, scratch / "related",
        queried=form, scored=Supported(form, graph / "item_indptr.npy", support) if support else None,
    )  # fmt: skip
    # One item has no other that could be related to it.
    written = [store.write_rows(RELATED, [related], run_id, allow_empty=counts[ITEM] == 1)]
    plans = {"related": plan}
    if CONTEXT in network.outputs and counts[CONTEXT] and config.index.num_recommended:
        seen = Seen(graph / "context_indptr.npy", graph / "context_indices.npy")
        lists, plans["recommendations"] = recommended_items(
            spark, embedded(ITEM), embedded(CONTEXT), counts[ITEM], counts[CONTEXT], width, seen, names,
            config.index, config.seed, scratch / "recommendations",
        )  # fmt: skip
        written.append(store.write_rows(RECOMMENDATIONS, [lists], run_id, allow_empty=True))
    context.measure(
        {name: figure for kind, plan in plans.items() for name, figure in _figures(kind, plan).items()}
    )
    return written


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
)
