"""Stage `profile_graph`: the graph's shape into `graph_profile`; beside the daily chain."""

from __future__ import annotations

from walkbits.graph.profile import graph_profile, require_graphframes
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import EDGES, GRAPH_PROFILE, ITEM, NODES
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.tables.store import Written


def run(context: StageRun) -> list[Written]:
    """Needs the GraphFrames jar; asked for before any work."""
    require_graphframes(context.spark, STAGE.name)
    nodes = context.store.read(NODES, run_id=context.run_id)
    edges = context.store.read(EDGES, run_id=context.run_id)
    profile = graph_profile(nodes, edges, num_nodes(context)[ITEM])
    return [context.store.write(GRAPH_PROFILE, profile, context.run_id)]


STAGE = Stage(name="profile_graph", after=("ingest_graph",), settings=lambda config: (), run=run)
