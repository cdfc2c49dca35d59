"""Measure every contender on every data set at hand: benchmarks/results/quality.json and docs/results.md.

    python benchmarks/quality.py [--data NAME ...] [--only CONTENDER ...] [--seeds N] [--render]
    python benchmarks/quality.py --validation [--set KEY=VALUE ...] --data NAME --only CONTENDER

Rows of earlier calls are kept, so the table can be filled piece by piece; --render writes the page from
what there is. --validation ranks the validation split, prints and keeps nothing: for choosing settings.
Trainings run on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import quality_codes
import quality_data
from contenders import CONTENDERS, Contender, Settings
from measure import ROOT, machine
from quality_data import DATA_SETS, DataSet
from walkbits.config_file import parse_yaml
from walkbits.evaluation.protocol import evaluate
from walkbits.evaluation.rankers import Embedding
from walkbits.settings import RankingMetric

RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
PAGE = ROOT / "docs" / "results.md"
GROUPS = {
    "New items, and what known ones lose for them": (
        "content_only", "item_pool_content", "item_pool_id_dropout",
    ),
    "The prior: at serving, or by logQ in training": (
        "item_pool_brief", "item_pool_no_prior", "item_pool_logq", "item_pool_corrected", "item_pool_mixed",
    ),
    "PinSage's pooling, from features without ids": (
        "content_only", "pinsage_importance", "pinsage_mean", "pinsage_max",
    ),
}  # fmt: skip
"""Contenders that the page also shows side by side."""
KS = (20,)
METRICS: tuple[RankingMetric, ...] = ("recall", "ndcg", "coverage")


def chosen_on(data: DataSet, contender: Contender) -> Settings:
    """The settings of highest Recall@20 on validation, the first of equals; over them the data set's own."""
    choices = [{**one, **contender.data[data.name]} for one in contender.choices]
    if len(choices) == 1:
        return choices[0]
    return max(
        choices, key=lambda settings: of_seed(data.for_choices, contender, settings, 1)["recall_at_20"]
    )


def of_seed(data: DataSet, contender: Contender, settings: Settings, seed: int) -> dict[str, Any]:
    """Build once, rank once: metrics, and minutes of CPU time of building, which other work hardly moves.

    Codes, where they are measured, are under `codes`.
    """
    began = time.process_time()
    ranker = contender.build(data, settings, seed)
    minutes = (time.process_time() - began) / 60
    figures = evaluate(data.split, [ranker], KS, METRICS)
    found: dict[str, Any] = {f"{one.metric}_at_{one.k}": one.value for one in figures} | {"minutes": minutes}
    if contender.codes:
        assert isinstance(ranker, Embedding)
        found["codes"] = quality_codes.measured(data.split, ranker, seed, learned=contender.learned)
    return found


def measured(
    data: DataSet, contender: Contender, seeds: list[int] | None, earlier: dict[str, Any]
) -> dict[str, Any]:
    """One row of the data set's table: means over the seeds, and how far these lie apart.

    Args:
        seeds: To measure; None is all of the contender's.
        earlier: The row so far; its other seeds are kept where the settings are the same.
    """
    settings = chosen_on(data, contender)
    by_seed = dict(earlier.get("by_seed", {})) if earlier.get("settings") == settings else {}
    for seed in seeds or range(1, contender.seeds + 1):
        by_seed[str(seed)] = of_seed(data, contender, settings, seed)
    names = [name for name in next(iter(by_seed.values())) if name != "codes"]
    values = {name: [one[name] for one in by_seed.values()] for name in names}
    return {
        **{name: round(statistics.mean(found), 5) for name, found in values.items()},
        "spread": round(max(values["recall_at_20"]) - min(values["recall_at_20"]), 5),
        "seeds": len(by_seed),
        "vectors": contender.vectors,
        "settings": dict(settings),
        "by_seed": by_seed,
    }


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best contender with vectors, and what it is to be compared with."""
    vectors = {one: row for one, row in rows.items() if row["vectors"]}
    found: dict[str, Any] = {
        beside: rows[beside]["recall_at_20"] for beside in ("item_knn", "content_only") if beside in rows
    }
    if vectors:
        best = max(vectors, key=lambda one: vectors[one]["recall_at_20"])
        kept = ("recall_at_20", "ndcg_at_20", "minutes", "seeds", "spread")
        found |= {"model": best, **{one: vectors[best][one] for one in kept}}
    return found


def page(results: dict[str, Any]) -> str:
    """docs/results.md."""
    parts = [
        "# Results\n",
        "Recall@20 and NDCG@20 over the full catalogue, training items left out, ties by item; means over "
        "the seeds. Settings were chosen on a split of the training edges: a rival's from its grid in "
        "`benchmarks/contenders.py`, a trained model's by hand. The settings column of a trained model says "
        "what differs from its file in conf/models; `benchmarks/quality.yaml` holds it and says how far it "
        "was validated. The test edges were ranked once per seed. Spread is the largest minus the smallest "
        "Recall@20 of the seeds, a dash where there is one: rivals without vectors and with one seed involve "
        "no chance, a trained model with one seed is one draw. Minutes are CPU time of one fit, walks "
        f"included, on {results['machine']}: one thread computes, another builds the next minibatch; rivals "
        "that walk do so while they rank. Vectors: one float vector per node; the others rank by a table or "
        "by walks.\n",
    ]
    for name, data in results["data"].items():
        order = sorted(data["rows"].items(), key=lambda row: row[1]["recall_at_20"])
        parts += [
            f"## {name}\n",
            f"{data['about']}: {data['contexts']:,} contexts, {data['items']:,} items, {data['edges']:,} "
            f"training edges, {data['queries']:,} queries. "
            f'`make results ARGS="--data {name}"`, {data["minutes"]:.0f} minutes of CPU time, choices '
            "included.\n",
            "| contender | Recall@20 | NDCG@20 | coverage | spread | seeds | vectors | minutes | settings |\n"
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for contender, row in order:
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            spread = f"{row['spread']:.4f}" if row["seeds"] > 1 else "-"
            parts.append(
                f"| {contender} | {row['recall_at_20']:.4f} | {row['ndcg_at_20']:.4f} "
                f"| {row['coverage_at_20']:.3f} | {spread} | {row['seeds']} "
                f"| {'yes' if row['vectors'] else 'no'} | {row['minutes']:.2f} | {settings} |"
            )
        parts.append("")
    for title, names in GROUPS.items():
        table = side_by_side(results, names)
        parts += [f"## {title}\n", "Recall@20 of the rows above.\n", *table, ""] if table else []
    parts += quality_codes.page({name: data["rows"] for name, data in results["data"].items()})
    return "\n".join(parts)


def side_by_side(results: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Recall@20 of some contenders, a column for each data set that has one of them."""
    rows = {one: data["rows"] for one, data in results["data"].items()}
    columns = [one for one in rows if any(name in rows[one] for name in names)]
    lines = [f"| contender | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in names:
        found = (rows[one].get(name, {}).get("recall_at_20") for one in columns)
        lines.append(f"| {name} | {' | '.join('-' if one is None else f'{one:.4f}' for one in found)} |")
    return lines if columns else []


def write(results: dict[str, Any]) -> None:
    """The JSON and the page made of it."""
    for name, data in results["data"].items():
        results[name] = summary(data["rows"])
    rows = results["data"].get("baskets", {}).get("rows", {})
    results["pinsage"] = {
        pooling: rows[f"pinsage_{pooling}"]["recall_at_20"]
        for pooling in ("importance", "mean", "max")
        if f"pinsage_{pooling}" in rows
    }
    results |= quality_codes.summary({name: data["rows"] for name, data in results["data"].items()})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/quality.py", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), metavar="NAME")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CONTENDER")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of the contender's own")
    parser.add_argument("--validation", action="store_true", help="rank the validation split and only print")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. training.epochs=8"
    )
    parser.add_argument("--render", action="store_true", help="write the page of what was measured before")
    flags = parser.parse_args(argv)
    if flags.set and not flags.validation:
        parser.error("--set needs --validation: settings of published figures are those of quality.yaml")
    changes = {key: parse_yaml(value) for key, value in (one.split("=", 1) for one in flags.set)}
    for name in [] if flags.render else flags.data:
        try:
            data = DATA_SETS[name]()
        except FileNotFoundError:
            sys.stdout.write(f"{name}: skipped, not in {quality_data.folder()}; set WALKBITS_DATA\n")
            continue
        for contender in CONTENDERS:
            too_large = contender.most_items is not None and data.split.num_items > contender.most_items
            if contender.name not in flags.only or too_large or name not in contender.data:
                continue
            if flags.validation:
                settings = {**chosen_on(data, contender), **changes}
                for seed in flags.seeds or [1]:
                    show(name, contender.name, of_seed(data.for_choices, contender, settings, seed))
                continue
            began = time.process_time()
            row = measured(data, contender, flags.seeds, entry(read(), data)["rows"].get(contender.name, {}))
            row["minutes_in_all"] = round((time.process_time() - began) / 60, 2)
            results = read()  # anew: another call may have measured another contender meanwhile
            about = results["data"][name] = entry(results, data)
            about["rows"][contender.name] = row
            about["minutes"] = sum(one["minutes_in_all"] for one in about["rows"].values())
            show(name, contender.name, row)
            write(results)
    if flags.render:
        write(read())
    return 0


def read() -> dict[str, Any]:
    """What earlier calls measured."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))["data"] if RESULTS.exists() else {}
    return {"machine": machine(), "data": data}


def entry(results: dict[str, Any], data: DataSet) -> dict[str, Any]:
    """A data set's part of the results, with the rows that there are."""
    earlier = results["data"].get(data.name, {})
    return {
        "about": data.about,
        "contexts": data.split.edges.num_contexts,
        "items": data.split.num_items,
        "edges": len(data.split.edges),
        "queries": len(data.split.queries),
        "minutes": earlier.get("minutes", 0.0),
        "rows": earlier.get("rows", {}),
    }


def show(data: str, contender: str, row: dict[str, Any]) -> None:
    """One line of figures."""
    figures = f"{row['recall_at_20']:.4f} {row['ndcg_at_20']:.4f} {row['minutes']:6.1f} min"
    sys.stdout.write(f"{data:<20}{contender:<20}{figures}\n")
    seeds: dict[str, dict[str, Any]] = row.get("by_seed", {"": row})
    ways = [*seeds.values()][-1].get("codes", {})
    for way, one in ways.items():
        share = one["recall_at_20"] / ways["float"]["recall_at_20"]
        sys.stdout.write(f"{way:>40} {one['recall_at_20']:.4f} {share:.3f} {one['exact_50']:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
