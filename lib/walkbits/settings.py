"""One YAML per environment, checked into these models.

Every field has its bounds in the type and a docstring with typical values. Unknown
keys are refused. The same models give `--print-config` and the stage keys that decide
whether a stage of an earlier attempt can be kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from walkbits.types import NodeType

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
CodeBits = Annotated[int, Field(ge=64, le=4096, multiple_of=64)]


# Of the shell, of Windows, of Jinja, of Python.
_VARIABLES = r"\$(\{|\w)|%[A-Z_]{3,}%|\{\{|%\(\w+\)s"


def _place(text: str) -> str:
    """A path or URI as it is meant: `~` is the home folder, and nothing else is expanded."""
    if not text.strip():
        raise ValueError("must be a path or URI, and not empty")
    if text != text.strip() or not text.isprintable():
        raise ValueError("must be a path or URI without spaces around it and without control characters")
    text = os.path.expanduser(text) if text.startswith("~") else text
    if text.startswith("~") or re.search(_VARIABLES, text):
        raise ValueError("must be written out: variables and other users' homes are not expanded here")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//)", text):
        raise ValueError("must be a plain path or a URI with ://, e.g. /data/x or file:///data/x")
    return text


FolderOrUri = Annotated[str, AfterValidator(_place)]


class Section(BaseModel):
    """Base of every section: unknown keys refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    speed_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no result; stage keys and fingerprints leave them out."""

    def deciding(self) -> dict[str, Any]:
        """The fields that results depend on, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.speed_only))


def config_hash(*sections: Section | str | int) -> str:
    """sha256 hex of the sections' canonical JSON; settings of equal results give equal hashes."""
    parts = [section.deciding() if isinstance(section, Section) else section for section in sections]
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Holdout(Section):
    """Edges set aside at ingest for evaluation, of some contexts."""

    split: Literal["leave_one_out", "random", "temporal"] = "leave_one_out"
    """`leave_one_out`: one drawn item of a context. `random`: a drawn `fraction` of its items. `temporal`:
    its last ones, by `interactions.timestamp`."""
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of a context's items that random and temporal set aside, rounded down. 0.1 to 0.3."""
    contexts: PositiveInt = 20_000
    """How many contexts lose items, at most, drawn by keyed hash."""
    min_items: Annotated[int, Field(ge=2)] = 5
    """Only contexts with at least this many distinct items."""


class Ingest(Section):
    """Rules for turning rows into a graph."""

    max_quarantined: Fraction = 0.0
    """Share of an input's rows that may be set aside: null or unknown ids, unusable vectors. 0 refuses any;
    0.01 is lenient."""
    max_edge_weight: PositiveFloat = 1e6
    """Largest summed weight of one edge; more is bad input (fixed point must not overflow)."""
    weighted: bool | None = None
    """Walk edges by their weight, or all alike. Absent: by weight where `interactions.weight` is named."""
    k_core: NonNegativeInt = 0
    """Keep only the k-core of the graph (GraphFrames, needs its jar). 0 keeps all."""
    holdout: Holdout | None = None
    """Edges of some contexts that the day leaves out of its graph, to rank them at its end; 1,000 to 20,000
    contexts. Absent: none. The evaluate job sets it to `evaluation.holdout`."""


class Features(Section):
    """Features from columns, in named groups that the tables' columns say."""

    text_buckets: Annotated[int, Field(ge=256, le=1 << 24)] = 1 << 18
    """Hash space of words, and of labels. 2^16 to 2^20."""
    width: Annotated[int, Field(ge=8, le=4096)] = 128
    """Columns of the feature vector that words are projected to, and likewise labels. 64 to 512."""
    degree: tuple[NodeType, ...] = ()
    """Node types that have the feature group `degree`, the log of the node's edges: item, context."""


class EarlyStop(Section):
    """Stop walking from a node early (Pixie), checked after 1/8, 1/4 and 1/2 of `num_walks`."""

    nodes: PositiveInt = 2000
    """n_p: so many nodes must have been visited often."""
    visits: PositiveInt = 4
    """n_v: what often means."""


class Walks(Section):
    """Importance neighborhoods by random walks (PinSage, section 3.1)."""

    speed_only: ClassVar[frozenset[str]] = frozenset({"plan", "host_bytes", "block_size"})

    method: Literal["sample", "push"] = "sample"
    """sample: seeded walks. push: their distribution itself up to `push_epsilon`, without chance; dearer."""
    push_epsilon: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Largest share of all visits that push may miss. 0.01 to 0.1."""
    num_walks: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Walks from every node. 50 to 1,000."""
    target_mass: Fraction | None = None
    """Double `num_walks`, up to 10,000, until the neighborhoods hold this share of the exact top T's visits
    on a sample of nodes. 0.9 to 0.98; run_metrics reports what it took. Absent walks `num_walks`."""
    walk_length: Annotated[int, Field(ge=1, le=1000)] = 5
    """Counted visits of one walk. 2 to 20."""
    restart_probability: Probability = 0.0
    """Chance to return to the start before a step. 0 to 0.5."""
    num_neighbors: Annotated[int, Field(ge=1, le=1000)] = 50
    """T: neighbors kept per node, by visit count. 10 to 100."""
    popularity_penalty: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """beta: the T neighbors are cut by visits / degree^beta. 0 is PinSage; 0.3 to 0.5 finds rarer ones."""
    context_weight_exponent: Annotated[float, Field(ge=-0.5, le=0.5)] = 0.0
    """gamma: an edge counts degree(context)^gamma times its weight. 0 to 0.3 (1 - alpha of RP3beta)."""
    early_stop: EarlyStop | None = None
    """Walk less from nodes whose neighborhood is clear early. Only in plan replicated."""
    multi_source_boost: bool = False
    """Between types, rank by (sum over the start's neighbors q of sqrt(visits by way of q))^2 (Pixie):
    what many of a user's items lead to comes first. Only in plan replicated."""
    plan: Literal["auto", "replicated", "sharded"] = "auto"
    """replicated: every host maps the whole graph, no shuffle. sharded: walkers move, for graphs
    over `host_bytes`. Equal rows from both; auto chooses by size, and --explain reports it."""
    host_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = ByteSize(64 << 30)
    """Memory of one host that the mapped graph may take, e.g. 16GiB. Half of the smallest host's."""
    block_size: Annotated[int, Field(ge=16, le=65_536)] = 256
    """Start nodes walked together; a block should fit the core's cache. 250 to 500."""

    @model_validator(mode="after")
    def _push_makes_no_walks(self) -> Walks:
        sampled = {
            "target_mass": self.target_mass is not None,
            "early_stop": self.early_stop is not None,
            "multi_source_boost": self.multi_source_boost,
        }
        named = [name for name, on in sampled.items() if on]
        if self.method == "push" and named:
            raise ValueError(f"method push goes without {', '.join(named)}")
        return self


Objective = Literal["max_margin", "softmax", "cross_entropy", "bpr", "cross_rank"]
NegativeSampling = Literal["in_batch", "uniform", "mixed"]


class HardNegatives(Section):
    """Items near a query but not among the nearest, by the visits of many walks from it (PinSage, 3.3)."""

    per_pair: PositiveInt = 6
    """Epoch n sets n - 1 of them against a pair, and no more than these. PinSage: 5."""
    per_query: PositiveInt = 50
    """Drawn from a query's window once; the epochs choose among them. 10 to 100."""
    first_rank: PositiveInt = 2000
    """Where the window of ranks begins, the most visited item being 1. PinSage: 2,000. Less for a small
    catalogue: a query whose walks visit fewer items has none; `run_metrics` reports how many have some."""
    last_rank: PositiveInt = 5000
    """Where it ends. PinSage: 5,000."""
    num_walks: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Walks from every query, as long as the neighborhoods'. 2,000 to 50,000."""

    @model_validator(mode="after")
    def _enough_to_choose_from(self) -> HardNegatives:
        if self.last_rank < self.first_rank:
            raise ValueError(f"last_rank must be at least first_rank {self.first_rank}, got {self.last_rank}")
        if self.per_query < self.per_pair:
            raise ValueError(f"per_query must be at least per_pair {self.per_pair}, got {self.per_query}")
        return self


class Training(Section):
    """Examples, negatives and steps. What is left out is the model's own choice."""

    speed_only: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds"})

    context_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of contexts whose pairs or edges are trained on. PinSage: 0.2."""
    pairs_per_context: PositiveInt = 10
    """Positive pairs drawn per sampled context, at most. 2 to 20."""
    epochs: PositiveInt = 4
    """Passes over the pairs."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Pairs per step. 512 to 4,096."""
    objective: Objective | None = None
    """Loss. Absent: the model's own. `max_margin`, `cross_entropy`, `bpr`: positive against negative scores.
    `softmax`: cross-entropy over all candidates. `cross_rank`: HashGNN's."""
    negative_sampling: NegativeSampling | None = None
    """`in_batch`: the positives of the other examples. `uniform`: `num_negatives` items drawn per step.
    `mixed`: both. Absent: the model's own."""
    num_negatives: PositiveInt = 500
    """Items drawn per step and shared by its examples. PinSage: 500."""
    logq_correction: Literal["none", "standard", "corrected"] = "none"
    """Subtract the log of a candidate's chance to be one from its score (Yi et al. 2019). `corrected`: not
    from the positive's (Khrylchenko et al. 2025). `none`: `model.prior` at serving does the same."""
    remove_accidental_hits: bool = True
    """Leave candidates out that are the example's own positive or, where contexts are made of their items,
    in its context: a query resembles what it is made of, and that is never recommended to it."""
    max_history: Annotated[int, Field(ge=1, le=10_000)] = 60
    """Items of a context that its query is made of, at most, drawn anew each time. 20 to 100."""
    hard_negatives: HardNegatives | None = None
    """Besides those, a few items of each pair's own, more with every epoch. Only where a host can map the
    graph (plan replicated). Absent: none."""
    train_neighbors: Annotated[int, Field(ge=1)] = 10
    """Neighbors used per node while training, heaviest first. 5 to 50."""
    margin: PositiveFloat = 0.1
    """Delta of the max-margin loss. 0.03 to 0.5; a large one parts communities and blurs what is within."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's step size. 3e-4 to 1e-2."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the step size grows to `learning_rate`. 0 to 1,000."""
    learning_rate_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the step size after every epoch. 0.8 to 1."""
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of the pairs or edges that is not trained on, drawn by key; the epoch with its lowest loss gives
    the weights. 0 trains on all, for all epochs; 0.02 to 0.1."""
    patience: PositiveInt = 2
    """Stop after so many epochs without a lower validation loss. 1 to 5; only with `validation_fraction`."""
    checkpoint_seconds: Annotated[float, Field(gt=0.0)] | None = 300.0
    """A killed training goes on from a checkpoint that was about as old, to the same bits. 60 to 3,600; null
    writes none."""


class Retrain(Section):
    """When a day trains and when it takes over the model that `live` shows."""

    every_days: PositiveInt = 1
    """Days after which a model is trained anew: 1 trains every day, 7 every week."""
    below_cosine: Fraction = 0.9
    """Train sooner when the last published run's mean `cosine[item]` to its predecessor fell below this."""


class Inference(Section):
    """Layer by layer over the whole graph."""

    block_size: Annotated[int, Field(ge=16, le=1 << 20)] = 960
    """Rows of one padded model call; results do not depend on batch boundaries."""
    cache_bytes: ByteSize | None = None
    """Vectors of a layer that each host maps, the most referenced first, e.g. 16GiB; the rest is
    shuffled, once per destination block. All of them when left out: no shuffle."""
    message_dtype: Literal["fp32", "fp16"] = "fp32"
    """Shuffled vectors: fp16 halves their bytes and rounds them to 11 bits."""


class Lsh(Section):
    """Bands of the code and the weak AND over them (PinSage, 3.5)."""

    band_bits: Annotated[int, Field(ge=4, le=32)] = 8
    """Bits per band. 8 to 16."""
    min_bands: PositiveInt = 2
    """theta: a candidate must match in at least this many bands."""


class Index(Section):
    """Codes, buckets and related items."""

    code_bits: tuple[CodeBits, ...] = (64, 128, 256)
    """Code widths to publish; buckets are built from the widest one named in `lsh_bits`."""
    wide_codes: Literal["rotations", "planes"] = "rotations"
    """What bits beyond the embedding's size are: signs of further rotations, best for Hamming distances and
    buckets, or further digits of each rotated coordinate, best for float queries against codes."""
    lsh_bits: CodeBits = 128
    """The code width that bands are cut from; one of `code_bits`."""
    lsh: Lsh = Lsh()
    """How codes are cut into bands."""
    num_related: Annotated[int, Field(ge=1, le=1000)] = 20
    """Related items published per item."""
    num_recommended: Annotated[int, Field(ge=0, le=1000)] = 20
    """Items published per context, where the model embeds contexts. 0 publishes none; 10 to 100."""
    exact: Literal["auto", "always", "never"] = "auto"
    """How related and recommended items are found. always: by a scan of all items; never: only in cells near
    the query, as many as `target_recall` takes; auto: by cells where they score far fewer. Tiny batches are
    scanned."""
    target_recall: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.97
    """Share of the exact lists that a search by cells must find, measured on a keyed sample. 0.9 to 0.99."""

    @model_validator(mode="after")
    def _lsh_bits_is_published(self) -> Index:
        if self.lsh_bits not in self.code_bits:
            raise ValueError(f"lsh_bits must be one of code_bits {self.code_bits}")
        if self.lsh_bits % self.lsh.band_bits:
            raise ValueError("lsh_bits must be a multiple of lsh.band_bits")
        return self


class Audit(Section):
    """What must hold before a run may be published."""

    max_row_drop: Fraction = 0.3
    """Largest allowed fall of the row count against the published run."""
    norm_tolerance: PositiveFloat = 1e-3
    """How far an embedding's length may be from 1 (or be exactly 0)."""
    min_cosine: Fraction = 0.5
    """Smallest mean cosine of the items' embeddings to the published ones, while the model is the same."""
    max_bits_flipped: Fraction = 0.25
    """Largest mean share of code bits that differ from the published ones; again of one model."""
    max_zero_vectors: Fraction = 0.2
    """Largest share of items whose embedding is zero. 0 to 0.2: items without features and interactions."""
    min_distinct_vectors: Fraction = 0.1
    """Smallest share of distinct vectors among the items' embeddings. 0.1 to 0.9. This gate and the next two
    judge catalogues of 100 items and more."""
    max_random_cosine: Fraction = 0.9
    """Largest mean cosine of random pairs of items: above it the space has collapsed. 0.3 to 0.9."""
    max_constant_bits: Fraction = 0.25
    """Largest share of code bits that are equal for all items: a hash layer that says nothing. 0 to 0.25."""
    min_neighbor_lift: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    """How much nearer walk neighbors must be than random pairs, in mean cosine. 0 to 0.3."""
    min_recall: Fraction = 0.0
    """Smallest share of related items that share `index.lsh.min_bands` buckets with their item. 0 to 0.9."""
    max_recall_drop: Fraction = 0.2
    """Largest fall of that share against the published run."""


class Maintenance(Section):
    """What the maintain_tables job keeps."""

    keep_published: PositiveInt = 3
    """Newest publications per channel whose runs stay readable: how far a rollback can go."""
    keep_days: NonNegativeInt = 7
    """Days after its last state change that any run is left alone; longer than the longest run."""


RankingMetric = Literal[
    "recall", "ndcg", "precision", "hit_rate", "mrr", "pair_hit_rate", "scaled_mrr", "coverage",
    "popularity_bias",
]  # fmt: skip


class Evaluation(Section):
    """Offline quality on held-out edges."""

    holdout: Holdout = Holdout()
    """What is held out."""
    ks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (20,)
    """Cut-offs of every metric. 10 to 100; 500 for PinSage's."""
    metrics: Annotated[tuple[RankingMetric, ...], Field(min_length=1)] = (
        "recall", "ndcg", "hit_rate", "scaled_mrr", "coverage",
    )  # fmt: skip
    """What is computed of each ranking; definitions in `evaluation.metrics`."""
    num_neighbors: PositiveInt = 100
    """Neighbors of the item-KNN baseline."""
