"""Whether a day reuses the published model: decided once per run, before its features are computed.

With `retrain.every_days` above 1 a day reuses the model that `live` shows, until that is so old or the
embeddings have drifted; runs then depend on what was published before them. The decision is recorded with
the run's feature space, so that a killed run goes on with it whatever is published meanwhile.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from walkbits.arrays.places import exists, read_bytes, write_bytes
from walkbits.config import Config
from walkbits.errors import ModelError
from walkbits.ingest.space import feature_schema_hash, load_space
from walkbits.models.card import read_card
from walkbits.runs.log import metric
from walkbits.runs.stage import StageRun
from walkbits.schemas import LIVE, PUBLICATIONS
from walkbits.settings import config_hash

LOG = logging.getLogger("walkbits")

MODEL: Final = "model"
"""Artifact folder of the run's model."""
SPACE: Final = "feature_space"
"""Artifact folder of the decision, and of the space that the run's features were computed in."""
_DECISION: Final = "decision.json"


def training_hash(config: Config) -> str:
    """Identifies the settings that a model is trained with."""
    return config_hash(config.model, config.training, config.seed)


def decided(context: StageRun) -> str | None:
    """The run whose model this one reuses, None where it trains; as recorded.

    Raises:
        ModelError: nothing is recorded.
    """
    path = context.artifacts(SPACE) / _DECISION
    try:
        return json.loads(read_bytes(path))["reused_run"]  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the decision to train or to reuse a model must be readable, got '{path}' ({error}); "
            "run the ingest_graph job again"
        ) from error


def decide(context: StageRun) -> str | None:
    """The recorded decision, or a new one."""
    recorded = exists(context.artifacts(SPACE) / _DECISION)
    return decided(context) if recorded else _reusable(context)


def record(context: StageRun, donor: str | None) -> None:
    """Write the decision down."""
    text = json.dumps({"reused_run": donor}) + "\n"
    write_bytes(context.artifacts(SPACE) / _DECISION, text.encode())


def _reusable(context: StageRun) -> str | None:
    """The run whose model `live` shows, if `config.retrain` lets this run use it.

    It must be younger than `every_days`, made by the same settings for the same features, and the
    last publication must not have drifted below `below_cosine`.
    """
    config, store, run = context.config, context.store, context.run
    if config.retrain.every_days == 1:
        return None
    live = [row for row in store.collect(PUBLICATIONS, channel=LIVE) if row["ds"] <= run.ds]
    published = max(live, key=lambda row: row["seq"], default=None)
    if published is None or published["run_id"] == run.run_id:
        return None
    folder = context.artifacts(MODEL, published["run_id"])
    try:
        card = read_card(folder)
        if card.feature_space is not None:
            load_space(folder, card.feature_space)
    except ModelError as error:
        LOG.info("run=%s training: %s", run.run_id, error)
        return None
    age = (run.ds - datetime.strptime(card.data_run[:8], "%Y%m%d").replace(tzinfo=UTC).date()).days
    same = (card.feature_schema, card.config_hash) == (
        feature_schema_hash(config.features, config.node_tables),
        training_hash(config),
    )
    cosine = metric(store, published["run_id"], "audit_run", "cosine[item]")
    drifted = cosine is not None and cosine < config.retrain.below_cosine
    LOG.info(
        "run=%s published=%s model_age_days=%d same_settings=%s cosine=%s",
        run.run_id, published["run_id"], age, same, cosine,
    )  # fmt: skip
    return published["run_id"] if same and not drifted and age < config.retrain.every_days else None
