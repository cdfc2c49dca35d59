"""A trained network over the whole graph in one process, for graphs that fit it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from walkbits.network.declaration import TABLE, Network
from walkbits.network.module import Module, hops_of
from walkbits.network.subgraphs import whole_graph
from walkbits.training.arrays import TrainingData
from walkbits.types import F32, NodeType


def embed(
    network: Network, weights: Mapping[str, F32], data: TrainingData, device: torch.device
) -> dict[NodeType, F32]:
    """Embeddings of all nodes: fp32 [nodes, embedding_size] per type. The layer engine gives the same.

    Args:
        weights: By tensor name, tables included, their rows in the order of the nodes.
        data: Features and neighborhoods.
    """
    module = Module(network, 0, device)
    module.weights = {name: torch.from_numpy(weights[name]).to(device) for name in module.weights}
    graph = whole_graph(network, data.relations, data.num_nodes)
    inputs: dict[NodeType, dict[str, torch.Tensor]] = {}
    for one, declared in network.inputs.items():
        inputs[one] = {}
        if declared.feature_width is not None:
            inputs[one]["features"] = torch.from_numpy(data.features[one]).to(device)
        if declared.count is not None:
            inputs[one]["ids"] = torch.from_numpy(weights[f"{TABLE}{one}"]).to(device)
    with torch.no_grad():
        z = module(inputs, hops_of(network, graph, device), graph.sizes)
    found = {one: x.cpu().numpy() for one, x in z.items()}
    for one in found:
        if not network.new_nodes(one):
            found[one][~weights[f"{TABLE}{one}"].any(axis=1)] = 0
    return found
