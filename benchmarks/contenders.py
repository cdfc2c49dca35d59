"""What `make results` compares: the entries of `CONTENDERS`, the trained ones made from quality.yaml.

A rival's settings are chosen by Recall@20 on the data set's validation split; with the best of them it is
built once more per seed on all training edges and ranks the test queries once. Settings of trained models
were chosen on the same split beforehand and are held by quality.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Final

import trained
from measure import ROOT
from quality_data import DATA_SETS, DataSet
from walkbits import settings
from walkbits.config_file import parse_yaml
from walkbits.evaluation import als, spectral, tables
from walkbits.evaluation.rankers import DenseTable as Dense
from walkbits.evaluation.rankers import Embedding, Pixie, Popularity, Ranker, Table, WalkedRp3Beta

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Contender:
    """Something to compare.

    Attributes:
        name: Row of the tables.
        build: (data, settings, seed) -> a fitted ranker. It may read the training edges of the data's split
            and the items' features, and nothing else.
        choices: Settings to choose from on validation; one entry is taken as it is.
        data: Data sets that it is built for, each with settings laid over the chosen ones.
        seeds: How many seeds are measured; 1 where chance has no part.
        vectors: Whether it is one float vector per node.
        most_items: Largest catalogue it is built for.
        codes: Whether codes of its vectors are measured too.
        learned: Whether these are the vectors' own signs.
    """

    name: str
    build: Callable[[DataSet, Settings, int], Ranker]
    choices: Sequence[Settings] = ({},)
    data: Mapping[str, Settings] = field(default_factory=lambda: {name: {} for name in DATA_SETS})
    seeds: int = 1
    vectors: bool = False
    most_items: int | None = None
    codes: bool = False
    learned: bool = False


def grid(**values: Sequence[Any]) -> list[Settings]:
    """Every combination of the values."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


def _item_knn(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    return Table("item_knn", tables.item_knn(data.split.train, **chosen))


def _rp3beta(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    return Table("rp3beta", tables.rp3beta(data.split.train, **chosen))


def _rp3beta_walks(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    return WalkedRp3Beta(**chosen, seed=seed)


def _pixie(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    return Pixie(settings.Walks(num_walks=2000, multi_source_boost=True, **chosen), seed)


def _ease(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    return Dense("ease", tables.ease(data.split.train, **chosen))


def _ials(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    contexts, items = als.fit(data.split.train, seed=seed, **chosen)
    return Embedding("ials", items, contexts)


def _spectral(data: DataSet, chosen: Settings, seed: int) -> Ranker:
    contexts, items = spectral.fit(data.split.train, seed=seed, **chosen)
    return Embedding("spectral", items, contexts)


def _trained() -> list[Contender]:
    document = parse_yaml((ROOT / "benchmarks" / "quality.yaml").read_text(encoding="utf-8"))
    return [
        Contender(
            name,
            partial(trained.fit, name, one["model"]),
            seeds=one["seeds"],
            vectors=True,
            data=one["data"],
            codes=one.get("codes", False),
            learned=trained.learned_codes(one["model"]),
        )
        for name, one in document.items()
    ]


CONTENDERS: Final[list[Contender]] = [
    Contender("popularity", lambda data, chosen, seed: Popularity()),
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
            embedding_size=(64,), unobserved_weight=(0.001, 0.005, 0.03, 0.1),
            regularisation=(0.001, 0.005, 0.02, 0.05), epochs=(6,),
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
    *_trained(),
]  # fmt: skip
