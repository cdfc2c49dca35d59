"""Batch top-k for all items beside faiss on the same cores: seconds and recall.

    make bench-index                            # 1 M items, growth from 0.1 M to 4 M
    make bench-index ARGS="--items 200000 --growth"

The vectors are a mixture: max(20, n / 200) centres of Zipf popularity (exponent 1/2), noise 0.6, both with
standard deviations i^-1/2 over the coordinates, divided by their lengths. At 1 M, 16 of 4,000 lists of faiss
IVF hold about .96 of the top 100. Flat and scan are measured on a sample of queries and extrapolated; the
search by cells and faiss IVF and HNSW answer all items, building included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measure import Figures, seconds
from pyspark.sql import SparkSession
from walkbits.arrays.mapped import ArrayWriter, create_matrix
from walkbits.index.exact import lengths, top_k
from walkbits.index.matrices import unit_rows
from walkbits.index.nearest import Batch, Itself, nearest
from walkbits.rng import draw, uniform
from walkbits.session import get_session
from walkbits.settings import Index

WIDTH, K, TARGET = 128, 100, 0.97
SAMPLE = 1000
NOISE = 0.6


def main() -> None:
    """Measure all and write benchmarks/results/index.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--growth", type=int, nargs="*", default=[100_000, 4_000_000], help="other sizes")
    args = parser.parse_args()
    spark = get_session("bench-index")
    cores = spark.sparkContext.defaultParallelism
    faiss.omp_set_num_threads(cores)
    figures = Figures("index", items=args.items, width=WIDTH, k=K, target_recall=TARGET)
    per_million = []
    for count in (args.items, *args.growth):
        vectors = mixture(count)
        queries = np.sort(np.argsort(draw(1, np.arange(count)), kind="stable")[:SAMPLE])
        exact = top_k(vectors[queries], vectors, K, Itself().of(queries))[0]
        found, spent, plan = by_cells(spark, vectors, queries)
        per_million.append(spent / count * 1e6)
        figures.record(
            **{f"cells_seconds[{count}]": spent, f"cells_recall[{count}]": recall(exact, found)},
            **{f"cells_expected_recall[{count}]": plan.recall, f"cells_scored[{count}]": plan.scored},
        )
        if count == args.items:
            figures.record(ladder_recall=recall(exact, found))
            for measured in peers(vectors, queries, exact, spent):
                figures.record(**measured)
    if args.growth:
        figures.record(growth_max=max(per_million) / min(per_million))
    spark.stop()


def mixture(count: int) -> np.ndarray:
    """fp32 [count, WIDTH] of length 1; keyed, so the same everywhere."""
    centres = max(20, count // 200)
    deviation = np.arange(1, WIDTH + 1) ** -0.5
    share = np.cumsum(np.arange(1, centres + 1) ** -0.5)
    own = np.searchsorted(share / share[-1], uniform(draw(2, np.arange(count))), side="right")
    middle = normal(3, centres) * deviation
    rows = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, 100_000):
        stop = min(count, start + 100_000)
        noise = NOISE * normal(4, stop - start, start) * deviation
        rows[start:stop] = unit_rows((middle[own[start:stop]] + noise).astype(np.float32))
    return rows


def normal(seed: int, count: int, first: int = 0) -> np.ndarray:
    """Standard normal fp64 [count, WIDTH], by Box and Muller."""
    row, column = np.arange(first, first + count)[:, None], np.arange(WIDTH)
    u, v = (uniform(draw(seed, row, column, part)) for part in (0, 1))
    return np.asarray(np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v))


def by_cells(spark: SparkSession, vectors: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, float, Any]:
    """Lists of the sample, seconds for all items from mapped vectors to rows on a disk, and the plan."""
    with tempfile.TemporaryDirectory(prefix="walkbits-bench-") as scratch:
        folder = Path(scratch)
        create_matrix(folder / "items.npy", *vectors.shape)
        with ArrayWriter(folder / "items.npy") as file:
            file.write_run(0, vectors)
        count = len(vectors)
        longest = float(lengths(vectors).max()) * (1 + 1e-6)
        batch = Batch(folder / "items.npy", folder / "items.npy", count, count, longest, K, Itself())
        rules = Index(exact="never", target_recall=TARGET)
        began = time.perf_counter()
        rows, plan = nearest(spark, batch, rules, 0, folder / "cells")
        rows.to_frame().write.parquet(str(folder / "lists"))
        spent = time.perf_counter() - began
        lists = spark.read.parquet(str(folder / "lists")).where(f"query IN ({', '.join(map(str, queries))})")
        table = lists.select("query", "rank", "item").toArrow()
        found = np.full((len(queries), K), -1)
        place = np.searchsorted(queries, table["query"].to_numpy())
        found[place, table["rank"].to_numpy() - 1] = table["item"].to_numpy()
    return found, spent, plan


def peers(
    vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray, spent: float
) -> Iterator[dict[str, float]]:
    """Faiss flat and the scan, one process each with all cores; IVF and HNSW at the first effort that reaches
    the target. What does not reach it has no seconds.
    """
    count, asked = len(vectors), vectors[queries]
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    flat_seconds = seconds(lambda: flat.search(asked, K + 1)) * count / SAMPLE
    scan = seconds(lambda: top_k(asked, vectors, K, Itself().of(queries))) * count / SAMPLE
    yield {
        "flat_seconds": flat_seconds,
        "exact_vs_faiss": flat_seconds / scan,
        "ladder_seconds_vs_flat": spent / flat_seconds,
    }
    ivf = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(WIDTH), WIDTH, round(4 * count**0.5), faiss.METRIC_INNER_PRODUCT
    )
    sampled = vectors[:: max(1, count // (64 * ivf.nlist))]

    def build_ivf() -> None:
        ivf.train(sampled)
        ivf.add(vectors)

    hnsw = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    efforts = [4, 6, 8, 12, 16, 24, 32, 48, 64]
    for name, index, build, effort in (
        ("ivf", ivf, build_ivf, lambda value: setattr(ivf, "nprobe", value)),
        ("hnsw", hnsw, lambda: hnsw.add(vectors), lambda value: setattr(hnsw.hnsw, "efSearch", 16 * value)),
    ):
        built = seconds(build)
        reached, searched = first_enough(index, effort, efforts, vectors, queries, exact)
        yield {f"{name}_build_seconds": built, f"{name}_recall": reached}
        if searched is not None:
            yield {f"{name}_seconds": built + searched, f"ladder_vs_{name}": spent / (built + searched)}


def first_enough(
    index: Any, set_effort: Callable[[int], None], efforts: list[int], vectors: np.ndarray,
    queries: np.ndarray, exact: np.ndarray, k: int = K + 1,
) -> tuple[float, float | None]:  # fmt: skip
    """Recall at the least effort that reaches the target, or the most; seconds for all items if it does."""
    reached = 0.0
    for value in efforts:
        set_effort(value)
        reached = recall(exact, index.search(vectors[queries], k)[1])
        if reached >= TARGET:
            break
    return reached, seconds(lambda: index.search(vectors, k)) if reached >= TARGET else None


def recall(exact: np.ndarray, found: np.ndarray) -> float:
    """Share of the exact lists that was found."""
    k = exact.shape[1]
    shares = [len(np.intersect1d(one, other)) / k for one, other in zip(exact, found, strict=True)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
