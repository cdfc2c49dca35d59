"""Stage `build_neighborhoods`: edges to a mapped graph, walks to importance neighborhoods."""

from __future__ import annotations

import numpy as np
from pyspark.sql import functions as F

from walkbits.arrays.places import Place, exists
from walkbits.forecast import Counts, Forecast, forecast_day
from walkbits.graph.csr import META, BipartiteCsr, read_meta
from walkbits.graph.csr_build import write_csr
from walkbits.models import walked_relations
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CONTEXT, EDGES, ITEM, NEIGHBORHOODS, NODES
from walkbits.settings import Walks
from walkbits.tables.store import Written
from walkbits.types import NodeType, Relation
from walkbits.walks.budget import reach_mass
from walkbits.walks.fidelity import fidelity, sample_nodes
from walkbits.walks.kernel import neighborhoods_of
from walkbits.walks.plan import WalkPlan, plan_walks
from walkbits.walks.replicated import build_neighborhoods, weigh_by_context
from walkbits.walks.sharded import sharded_neighborhoods

GRAPH = "graph"
FIDELITY_SAMPLE = 200
"""Nodes whose neighborhoods are compared with the exact ones."""


def run(context: StageRun) -> list[Written]:
    """Build the graph folder, walk every relation the model reads, audit the walks."""
    config, store, run_id = context.config, context.store, context.run_id
    nodes, edges = store.read(NODES, run_id=run_id), store.read(EDGES, run_id=run_id)
    counts = num_nodes(context)
    folder = context.artifacts(GRAPH)
    gamma = config.walks.context_weight_exponent
    walked = weigh_by_context(edges, gamma, config.weighted) if gamma else edges
    weighted = config.weighted or bool(gamma)
    write_csr(walked, nodes, counts[ITEM], counts[CONTEXT], folder, weighted)
    csr = BipartiteCsr.open(folder)
    written = [context.artifact_written(GRAPH, csr.num_edges)]
    figures: dict[str, tuple[float, str]] = {}
    for relation in walked_relations(config.model):
        walks = reach_mass(csr, relation, config.walks, config.seed)
        plan = plan_walks(counts[ITEM], counts[CONTEXT], csr.num_edges, weighted, relation, walks)
        written.append(_walk(context, folder, plan, walks))
        measured = _fidelity(csr, relation, walks, config.seed)
        figures |= {f"{name}[{relation}]": (value, "ratio") for name, value in measured.items()}
        figures[f"num_walks[{relation}]"] = (walks.num_walks, "walks")
    context.measure(figures)
    return written


def _walk(context: StageRun, folder: Place, plan: WalkPlan, walks: Walks) -> Written:
    """Commit the neighborhoods of a relation by the plan."""
    spark, seed, relation = context.spark, context.config.seed, plan.relation
    if plan.name == "replicated":
        rows = build_neighborhoods(spark, folder, relation, walks, seed)
        return context.store.write_rows(NEIGHBORHOODS, [rows], context.run_id, relation=relation)
    num_shards = max(plan.num_shards, spark.sparkContext.defaultParallelism)
    with context.spark_scratch() as scratch:
        rows = sharded_neighborhoods(spark, folder, relation, walks, seed, scratch, num_shards)
        return context.store.write_rows(NEIGHBORHOODS, [rows], context.run_id, relation=relation)


def explain(context: StageRun) -> str:
    """The plan of every relation of the run's graph, before anything is built."""
    config = context.config
    counts, edges = num_nodes(context), context.store.read(EDGES, run_id=context.run_id).count()
    weighted = config.weighted or bool(config.walks.context_weight_exponent)
    return "\n".join(
        plan_walks(counts[ITEM], counts[CONTEXT], edges, weighted, relation, config.walks).explain()
        for relation in walked_relations(config.model)
    )


def num_nodes(context: StageRun) -> dict[NodeType, int]:
    """Nodes per type of the run."""
    counted = context.store.read(NODES, run_id=context.run_id).groupBy("node_type").agg(F.count(F.lit(1)))
    found = {row[0]: row[1] for row in counted.collect()}
    return {"item": found.get(ITEM, 0), "context": found.get(CONTEXT, 0)}


def forecast_of(context: StageRun, stage: str) -> Forecast | None:
    """What a stage takes on the run's own graph; None where that is gone."""
    if not exists(context.artifacts(GRAPH) / META):
        return None
    meta = read_meta(context.artifacts(GRAPH))
    counts = Counts(meta["num_items"], meta["num_contexts"], meta["num_edges"], meta["num_edges"])
    cores = context.spark.sparkContext.defaultParallelism
    return next(one for one in forecast_day(counts, context.config, cores) if one.stage == stage)


def _fidelity(csr: BipartiteCsr, relation: Relation, walks: Walks, seed: int) -> dict[str, float]:
    """Sampled against exact neighborhoods, on a keyed sample of fixed size."""
    nodes = sample_nodes(csr, relation, FIDELITY_SAMPLE, seed)
    return fidelity(
        csr, relation, nodes, *neighborhoods_of(csr, relation, np.asarray(nodes), walks, seed), walks
    )


STAGE = Stage(
    name="build_neighborhoods",
    after=("ingest_graph",),
    settings=lambda config: (config.walks, str(config.weighted), str(walked_relations(config.model))),
    run=run,
    explain=explain,
)
