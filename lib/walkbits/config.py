"""The settings of one environment: data in, tables out, and every section between."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt, SerializeAsAny, model_validator

from walkbits.arrays.places import Place, place_of
from walkbits.input_settings import Contexts, Impressions, Interactions, Items, NodeTable
from walkbits.models import DEFAULT, architectures, parse_model
from walkbits.models.base import NO_SHAPES, ModelSettings
from walkbits.settings import (
    Audit,
    Evaluation,
    Features,
    FolderOrUri,
    Index,
    Inference,
    Ingest,
    Maintenance,
    Retrain,
    Section,
    Training,
    Walks,
)
from walkbits.types import NodeType


class Config(Section):
    """One environment: data in, tables out, and every knob between."""

    root: FolderOrUri
    """Folder or URI that holds every table, model and artifact."""
    artifacts: FolderOrUri | None = None
    """For mapped graphs, matrices and models; default `<root>/_artifacts`. A plain path is mapped in place on
    every host; a URI (s3, gs, abfs, hdfs, file; reached by pyarrow) is storage that all hosts can access, and
    each executor copies what it maps to its own disk once."""
    single_driver: bool = False
    """Promises that never two jobs run on `root` at once. Needed where one driver's commit can replace
    another's: on s3 without a LogStore for several writers, see docs/operations.md."""
    channel: str = Field(default="live", pattern=r"^[a-z][a-z0-9_=-]{0,62}$")
    """Publication channel; readers of the views see `live`."""
    seed: NonNegativeInt = 0
    """Seed of every draw."""
    interactions: Interactions
    """Required: who touched what."""
    items: Items | None = None
    """The item table. Without it the items are those of the interactions, without names."""
    contexts: Contexts | None = None
    """A table of users, boards or baskets. Without it the contexts are those of the interactions."""
    impressions: Impressions | None = None
    """What was shown and not taken."""
    ingest: Ingest = Ingest()
    features: Features = Features()
    walks: Walks = Walks()
    model: Annotated[SerializeAsAny[ModelSettings], BeforeValidator(parse_model)] = Field(
        default_factory=lambda: architectures()[DEFAULT].model_validate({})
    )
    """One of walkbits.models, by its `architecture`; conf/models/ has a file for each."""
    training: Training = Training()
    retrain: Retrain = Retrain()
    inference: Inference = Inference()
    index: Index = Index()
    audit: Audit = Audit()
    maintenance: Maintenance = Maintenance()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _codes_are_as_wide_as_the_model(self) -> Config:
        network, widest = self.model.network(NO_SHAPES), max(self.index.code_bits)
        learned = network.embedding_size("item")
        if network.learned_codes and learned < widest:
            raise ValueError(
                f"index.code_bits may be at most the {learned} bits that '{self.model.architecture}' learns, "
                f"got {widest}; raise model.code_bits or lower index.code_bits"
            )
        return self

    @model_validator(mode="after")
    def _buckets_are_cut_from_signs(self) -> Config:
        size = self.model.network(NO_SHAPES).embedding_size("item")
        if self.index.wide_codes == "planes" and self.index.lsh_bits > size:
            raise ValueError(
                f"index.lsh_bits may be at most the embedding's size {size} where index.wide_codes is "
                f"planes, got {self.index.lsh_bits}; lower it or set index.wide_codes to rotations"
            )
        return self

    @property
    def weighted(self) -> bool:
        """Whether walks follow the edges' weights: by `ingest.weighted`, else where a weight is named."""
        named = self.interactions.weight is not None
        return named if self.ingest.weighted is None else self.ingest.weighted

    @property
    def node_tables(self) -> dict[NodeType, NodeTable | None]:
        """The tables that describe nodes, by type."""
        return {"item": self.items, "context": self.contexts}


_APART = frozenset(
    {
        "root",
        "artifacts",
        "single_driver",
        "channel",
        "audit",
        "evaluation",
        "maintenance",
        "interactions",
        "items",
        "contexts",
        "impressions",
    }
)
"""Sections that change no bit of a run, or of which only some fields do."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s\"']+@")


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide a run's bits, as JSON values by section."""
    named = {
        name: value.deciding() if isinstance(value, Section) else value
        for name, value in config
        if name not in _APART
    }
    tables = {"items": config.items, "contexts": config.contexts}
    return named | {name: spec.feature_columns for name, spec in tables.items() if spec is not None}


def without_credentials(text: str) -> str:
    """A text with the user and password of its URIs left out."""
    return _CREDENTIALS.sub("", text)


def artifacts_of(config: Config) -> Place:
    """Where the plain files of all runs are stored.

    Roots that name one folder for `artifacts` have a part of it each: their runs may have the same ids.
    """
    if config.artifacts is None:
        return place_of(f"{config.root.rstrip('/')}/_artifacts")
    root = str(place_of(config.root)).rstrip("/")
    return place_of(config.artifacts) / hashlib.sha256(root.encode()).hexdigest()[:12]
