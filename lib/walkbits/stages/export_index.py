"""Step `export_index`: the published items as an index that a server loads without Spark."""

from __future__ import annotations

import logging

import numpy as np

from walkbits.arrays.places import Place
from walkbits.config import Config, artifacts_of
from walkbits.errors import ConfigError, InputError
from walkbits.index.codes import vectors
from walkbits.index.export import QUERIES, Kind, Score, faiss_codes, index_of, write_export
from walkbits.index.matrices import unit_rows
from walkbits.models.card import read_card
from walkbits.network.arithmetic import supported
from walkbits.runs.pointer import read_pointer
from walkbits.runs.reuse import MODEL
from walkbits.schemas import CODES, EMBEDDINGS, ITEM, NODES
from walkbits.tables.store import Store

LOG = logging.getLogger("walkbits")


def export(store: Store, config: Config, kind: Kind, score: Score, folder: Place) -> None:
    """Write the channel's items; they are gathered on the driver, which must hold them twice.

    Raises:
        InputError: the channel shows nothing.
        ConfigError: codes are asked for the context's score, which adds a prior, or of a width that the run
            has not.
    """
    form = "binary" if kind == "binary" else "float"
    if (form, score) not in QUERIES:
        raise ConfigError(
            f"score must be item where kind is {kind}, got {score}; export float vectors for it"
        )
    pointer = read_pointer(store, config.channel)
    if pointer is None:
        raise InputError(
            f"channel '{config.channel}' must show a run, got none; publish one with jobs/run_daily.py"
        )
    where = {"run_id": pointer.run_id, "node_type": ITEM}
    if form == "binary":
        table = store.read(CODES, **where, code_bits=config.index.lsh_bits).orderBy("node_id").toArrow()
        if not table.num_rows:
            raise ConfigError(
                f"index.lsh_bits must be a code width of run {pointer.run_id}, got {config.index.lsh_bits}; "
                "export with the configuration that it was made with"
            )
        codes = table["code"].combine_chunks()
        index = faiss_codes(codes.flatten().to_numpy().reshape(len(codes), -1))
    else:
        table = store.read(EMBEDDINGS, **where).orderBy("node_id").toArrow()
        rows = vectors(table["embedding"].combine_chunks())
        if score == "item":
            degrees = store.read(NODES, **where).orderBy("node_id").select("degree").toArrow()["degree"]
            score_of = read_card(artifacts_of(config) / pointer.run_id / MODEL).network.score
            rows = unit_rows(rows) * supported(degrees.to_numpy(), score_of.support)[:, None]
        else:
            rows = np.column_stack([rows, table["prior"].to_numpy().astype(np.float32)])
        index = index_of(kind, np.ascontiguousarray(rows))
    about = {"run_id": pointer.run_id, "kind": kind, "score": score, "query": QUERIES[form, score]}
    card = write_export(folder, index, table["external_id"].to_pylist(), about)
    LOG.info("export=%s run=%s kind=%s score=%s items=%d", folder, pointer.run_id, kind, score, card["count"])
