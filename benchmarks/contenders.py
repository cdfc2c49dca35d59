"""What `make results` compares. A contender is one entry of `CONTENDERS`.

Settings are chosen by Recall@20 on the data set's validation split; with the best of them the contender is
built once more per seed on all training edges and ranks the test queries once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from walkbits import settings
from walkbits.evaluation import tables
from walkbits.evaluation.rankers import DenseTable as Dense
from walkbits.evaluation.rankers import Embedding, Pixie, Popularity, Ranker, Table, WalkedRp3Beta
from walkbits.evaluation.splits import Split
from walkbits.training import als, spectral

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Contender:
    """Something to compare.

    Attributes:
        name: Row of the tables.
        build: (split, settings, seed) -> a fitted ranker. It may read the split's training edges and
            nothing else of it.
        choices: Settings to choose from on validation; one entry is taken as it is.
        seeds: How many seeds are measured; 1 where chance has no part.
        vectors: Whether it is one float vector per node.
        most_items: Largest catalogue it is built for.
    """

    name: str
    build: Callable[[Split, Settings, int], Ranker]
    choices: Sequence[Settings] = ({},)
    seeds: int = 1
    vectors: bool = False
    most_items: int | None = None


def grid(**values: Sequence[Any]) -> list[Settings]:
    """Every combination of the values."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


def _item_knn(split: Split, chosen: Settings, seed: int) -> Ranker:
    return Table("item_knn", tables.item_knn(split.train, **chosen))


def _rp3beta(split: Split, chosen: Settings, seed: int) -> Ranker:
    return Table("rp3beta", tables.rp3beta(split.train, **chosen))


def _rp3beta_walks(split: Split, chosen: Settings, seed: int) -> Ranker:
    return WalkedRp3Beta(**chosen, seed=seed)


def _pixie(split: Split, chosen: Settings, seed: int) -> Ranker:
    return Pixie(settings.Walks(num_walks=2000, multi_source_boost=True, **chosen), seed)


def _ease(split: Split, chosen: Settings, seed: int) -> Ranker:
    return Dense("ease", tables.ease(split.train, **chosen))


def _ials(split: Split, chosen: Settings, seed: int) -> Ranker:
    contexts, items = als.fit(split.train, seed=seed, **chosen)
    return Embedding("ials", items, contexts)


def _spectral(split: Split, chosen: Settings, seed: int) -> Ranker:
    contexts, items = spectral.fit(split.train, seed=seed, **chosen)
    return Embedding("spectral", items, contexts)


CONTENDERS: Final[list[Contender]] = [
    Contender("popularity", lambda split, chosen, seed: Popularity()),
    Contender("item_knn", _item_knn, grid(num_neighbors=(100, 400))),
    Contender("rp3beta", _rp3beta, grid(alpha=(0.6, 0.8, 1.0), beta=(0.1, 0.3, 0.5), num_neighbors=(400,))),
    Contender(
        "rp3beta_walks",
        _rp3beta_walks,
        grid(alpha=(0.8,), beta=(0.1, 0.3), num_neighbors=(400,), num_walks=(10_000,)),
        seeds=3,
    ),
    Contender(
        "pixie",
        _pixie,
        grid(walk_length=(2, 4), restart_probability=(0.5,), popularity_penalty=(0.0, 0.3)),
        seeds=3,
    ),
    Contender("ease", _ease, grid(regularisation=(200.0, 500.0, 1000.0)), most_items=20_000),
    Contender(
        "ials",
        _ials,
        grid(
            embedding_size=(64,), unobserved_weight=(0.005, 0.03), regularisation=(0.005, 0.02), epochs=(6,)
        ),
        seeds=3,
        vectors=True,
    ),
    Contender(
        "spectral",
        _spectral,
        grid(embedding_size=(64, 256), context_exponent=(0.5,), item_exponent=(0.4,),
             popularity_exponent=(0.0, 0.4)),
        seeds=3,
        vectors=True,
    ),
]  # fmt: skip
