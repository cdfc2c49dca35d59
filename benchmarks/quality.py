"""Measure every contender on every data set at hand: benchmarks/results/quality.json and docs/results.md.

    python benchmarks/quality.py [--data NAME ...] [--only CONTENDER ...] [--render]

Rows of earlier calls are kept, so the table can be filled piece by piece; --render writes the page from
what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import quality_data
from contenders import CONTENDERS, Contender, Settings
from measure import ROOT, machine
from quality_data import DATA_SETS, DataSet
from walkbits.evaluation.protocol import evaluate
from walkbits.evaluation.splits import Split

RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
PAGE = ROOT / "docs" / "results.md"
KS = (20,)
METRICS = ("recall", "ndcg", "coverage")


def chosen_on(validation: Split, contender: Contender) -> Settings:
    """The settings of highest Recall@20; the first of equals."""
    if len(contender.choices) == 1:
        return contender.choices[0]

    def recall(settings: Settings) -> float:
        ranker = contender.build(validation, settings, 1)
        return evaluate(validation, [ranker], KS, ("recall",))[0].value

    return max(contender.choices, key=recall)


def measured(data: DataSet, contender: Contender) -> dict[str, Any]:
    """One row of the data set's table: means over the seeds, and how far these lie apart."""
    settings = chosen_on(data.validation, contender)
    values: dict[str, list[float]] = {}
    minutes = []
    for seed in range(1, contender.seeds + 1):
        began = time.perf_counter()
        ranker = contender.build(data.split, settings, seed)
        minutes.append((time.perf_counter() - began) / 60)
        for figure in evaluate(data.split, [ranker], KS, METRICS):
            values.setdefault(f"{figure.metric}_at_{figure.k}", []).append(figure.value)
    return {
        **{name: round(statistics.mean(found), 5) for name, found in values.items()},
        "spread": round(max(values["recall_at_20"]) - min(values["recall_at_20"]), 5),
        "seeds": contender.seeds,
        "minutes": round(statistics.mean(minutes), 2),
        "vectors": contender.vectors,
        "settings": dict(settings),
    }


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best contender with vectors, and item-KNN beside it."""
    vectors = {name: row for name, row in rows.items() if row["vectors"]}
    found: dict[str, Any] = {"item_knn": rows["item_knn"]["recall_at_20"]} if "item_knn" in rows else {}
    if vectors:
        best = max(vectors, key=lambda name: vectors[name]["recall_at_20"])
        kept = ("recall_at_20", "ndcg_at_20", "minutes", "seeds", "spread")
        found |= {"model": best, **{name: vectors[best][name] for name in kept}}
    return found


def page(results: dict[str, Any]) -> str:
    """docs/results.md."""
    parts = [
        "# Results\n",
        "Recall@20 and NDCG@20 over the full catalogue, training items left out, ties by item. Settings "
        "were chosen on a split of the training edges; the test edges were ranked once per seed. A row of "
        "one seed involves no chance. Spread is the largest minus the smallest Recall@20 of the seeds; "
        f"minutes are those of one fit on {results['machine']}. Vectors: one float vector per node; the "
        "others rank by a table or by walks.\n",
    ]
    for name, data in results["data"].items():
        order = sorted(data["rows"].items(), key=lambda row: row[1]["recall_at_20"])
        parts += [
            f"## {name}\n",
            f"{data['about']}: {data['contexts']:,} contexts, {data['items']:,} items, {data['edges']:,} "
            f"training edges, {data['queries']:,} queries. "
            f'`make results ARGS="--data {name}"`, {data["minutes"]:.0f} minutes.\n',
            "| contender | Recall@20 | NDCG@20 | coverage | spread | seeds | vectors | minutes | settings |\n"
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for contender, row in order:
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            parts.append(
                f"| {contender} | {row['recall_at_20']:.4f} | {row['ndcg_at_20']:.4f} "
                f"| {row['coverage_at_20']:.3f} | {row['spread']:.4f} | {row['seeds']} "
                f"| {'yes' if row['vectors'] else 'no'} | {row['minutes']:.1f} | {settings} |"
            )
        parts.append("")
    return "\n".join(parts)


def write(results: dict[str, Any]) -> None:
    """The JSON and the page made of it."""
    for name, data in results["data"].items():
        results[name] = summary(data["rows"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/quality.py", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), metavar="NAME")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CONTENDER")
    parser.add_argument("--render", action="store_true", help="write the page of what was measured before")
    flags = parser.parse_args(argv)
    results: dict[str, Any] = {"machine": machine(), "data": {}}
    if RESULTS.exists():
        results["data"] = json.loads(RESULTS.read_text(encoding="utf-8"))["data"]
    for name in [] if flags.render else flags.data:
        try:
            data = DATA_SETS[name]()
        except FileNotFoundError:
            sys.stdout.write(f"{name}: skipped, not in {quality_data.folder()}; set WALKBITS_DATA\n")
            continue
        split, earlier = data.split, results["data"].get(name, {})
        about = {
            "about": data.about,
            "contexts": split.edges.num_contexts,
            "items": split.num_items,
            "edges": len(split.edges),
            "queries": len(split.queries),
            "minutes": earlier.get("minutes", 0.0),
            "rows": earlier.get("rows", {}),
        }
        results["data"][name] = about
        for contender in CONTENDERS:
            too_large = contender.most_items is not None and split.num_items > contender.most_items
            if contender.name not in flags.only or too_large:
                continue
            began = time.perf_counter()
            row = measured(data, contender)
            row["minutes_in_all"] = round((time.perf_counter() - began) / 60, 2)
            about["rows"][contender.name] = row
            about["minutes"] = sum(one["minutes_in_all"] for one in about["rows"].values())
            figures = f"{row['recall_at_20']:.4f} {row['ndcg_at_20']:.4f}"
            sys.stdout.write(f"{name:<20}{contender.name:<16}{figures}\n")
            sys.stdout.flush()
            write(results)
    if flags.render:
        write(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
