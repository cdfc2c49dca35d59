"""Stage `build_index`: committed embeddings to codes, codes to buckets, embeddings to related items."""

from __future__ import annotations

from pyspark.sql import functions as F

from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import codes_from_embeddings
from walkbits.index.related import related_items
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CODES, EMBEDDINGS, ITEM, LSH_BUCKETS, RELATED
from walkbits.tables.store import Written


def run(context: StageRun) -> list[Written]:
    """Each table is made from the committed one before it, never from a frame in memory."""
    config, store, run_id = context.config, context.store, context.run_id
    embeddings = store.read(EMBEDDINGS, run_id=run_id)
    codes = codes_from_embeddings(embeddings, config.index, config.seed)
    written = [store.write(CODES, codes, run_id)]
    committed = store.read(CODES, run_id=run_id, code_bits=config.index.lsh_bits)
    buckets = buckets_from_codes(committed.where(F.col("node_type") == ITEM), config.index)
    written.append(store.write(LSH_BUCKETS, buckets, run_id))
    items = embeddings.where(F.col("node_type") == ITEM)
    with context.scratch("related") as scratch:
        related = related_items(context.spark, items, config.index.num_related, scratch)
        # A single item has none.
        written.append(store.write(RELATED, related, run_id, allow_empty=True))
    return written


STAGE = Stage(
    name="build_index",
    after=("infer_layers",),
    settings=lambda config: (config.index,),
    run=run,
)
