"""Top-k for a batch of queries inside the workers: a scan of all items, or a search by cells.

Vectors are mapped once per host; a task takes blocks of queries. Nothing is joined pair by pair, and
nothing that grows with the catalogue passes through the driver. A search by cells (index.cells) trains
its centroids in one task, then measures on a keyed sample of queries which cells hold their exact
lists, and so chooses how many each query scores.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from walkbits import settings
from walkbits.arrays.mapped import ArrayWriter, create_array, open_array, save_array
from walkbits.arrays.places import Place
from walkbits.errors import ConfigError
from walkbits.index.cells import gaps_of, nearest_cells, num_cells, sampled, search, train
from walkbits.index.exact import QUERY_BLOCK, Items, top_k, top_k_spread
from walkbits.index.plan import CELLS, Plan, choose, curve_of, reaching, scan_of, tries_cells
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32, I64

LOG = logging.getLogger("walkbits")

_SAMPLE: Final = 400
_TOGETHER: Final = 1 << 13
"""Queries of cells near each other that are scored together: an item is read once for all of them."""
_PARTS_PER_CORE: Final = 4
"""Several tasks per core even out their lengths; a task costs little beside a block."""

_ROWS: Final = 1 << 13
"""Vectors that a task reads at once."""

LISTS: Final = "query BIGINT, item BIGINT, rank INT, score FLOAT"


class Excluded(Protocol):
    """Which items must not appear in a query's list; travels to the tasks."""

    def of(self, queries: I64) -> tuple[I64, I64]:
        """As `exact.top_k` takes them."""


@dataclass(frozen=True)
class Itself:
    """Queries are the items: none is in its own list."""

    def of(self, queries: I64) -> tuple[I64, I64]:
        return np.arange(len(queries) + 1), queries


@dataclass(frozen=True)
class Batch:
    """What is asked.

    Attributes:
        queries: fp32 [num_queries, d], mapped; the same array as `items` when items ask for items.
        items: fp32 [num_items, d], mapped.
        longest: length of the longest item.
        k: length of the lists; where fewer items are allowed, a list is shorter.
        groups: int32 [num_items], mapped: lists hold at most `at_most` of a group, see `exact.top_k_spread`.
            None bounds nothing.
    """

    queries: Place
    items: Place
    num_queries: int
    num_items: int
    longest: float
    k: int
    excluded: Excluded
    groups: Place | None = None
    at_most: int = 1


def nearest(
    spark: SparkSession, batch: Batch, rules: settings.Index, seed: int, folder: Place
) -> tuple[Rows, Plan]:
    """Lists of the k items of largest inner product with each query, ties by item.

    Scores are those of `exact.top_k`. Neither the lists nor the choice between scan and cells depend
    on partitions.

    Args:
        rules: `exact` and `target_recall` choose the plan.
        folder: scratch storage that driver and executors reach, until the rows are written.

    Returns:
        Rows of `LISTS`, rank from 1; and the plan.

    Raises:
        ConfigError: `exact: never`, and no number of cells reaches the recall.
    """
    plan = scan_of(batch.num_items)
    if batch.groups is None and tries_cells(batch.num_queries, batch.num_items, rules):
        cells, plan = _plan_cells(spark, batch, rules, seed, folder)
        if plan.gap is not None:
            LOG.info("search=cells recall=%.4f scored=%.0f of=%d", plan.recall, plan.scored, batch.num_items)
            return _by_cells(spark, cells, plan.gap), plan
    LOG.info("search=scan recall=1 scored=%d of=%d", batch.num_items, batch.num_items)
    blocks = -(-batch.num_queries // QUERY_BLOCK)
    return _numbered(spark, blocks).then(_Scan(batch).run, LISTS), plan


@dataclass(frozen=True)
class _Cells:
    """Arrays of one search by cells."""

    batch: Batch
    folder: Place
    probes: int

    @property
    def count(self) -> int:
        return num_cells(self.batch.num_items)

    @property
    def same(self) -> bool:
        return self.batch.queries == self.batch.items

    def near(self, what: str) -> tuple[Place, Place]:
        """Nearest cells of the queries or the items, and the cosines."""
        what = "items" if self.same else what
        listed = self.listed(what)
        return self.folder / f"{what}_near_{listed}.npy", self.folder / f"{what}_cosines_{listed}.npy"

    def listed(self, what: str) -> int:
        """How many cells are listed for each query or item; items that ask for nothing have a home alone."""
        return self.probes if what == "queries" or self.same else 1

    def order(self, what: str) -> tuple[Place, Place, Place]:
        """Who is in each cell: order [n] and starts [cells + 1]; and each one's place in that order [n]."""
        what = "items" if self.same else what
        order, starts, places = (self.folder / f"{what}_{one}.npy" for one in ("order", "starts", "places"))
        return order, starts, places

    @property
    def centroids(self) -> Place:
        return self.folder / "centroids.npy"

    @property
    def by_cell(self) -> Place:
        return self.folder / "by_cell.npy"

    def layout(self) -> tuple[I64, Items]:
        """Starts of the cells, and the items by cell."""
        order, starts, _ = (open_array(place) for place in self.order("items"))
        return starts, Items(open_array(self.by_cell), order)


def _plan_cells(
    spark: SparkSession, batch: Batch, rules: settings.Index, seed: int, folder: Place
) -> tuple[_Cells, Plan]:
    """Cells, and the plan that the curve of a sample leads to."""
    most, target = num_cells(batch.num_items), rules.target_recall
    cells = _build_cells(spark, _Cells(batch, folder, min(CELLS[0], most)), seed)
    curve = _curve(spark, cells, seed)
    for more in CELLS[1:]:
        if reaching(curve, target) or min(more, most) <= cells.probes:
            break
        cells = replace(cells, probes=min(more, most))
        _assign(spark, cells, "queries")
        curve = _curve(spark, cells, seed)
    if rules.exact == "never" and reaching(curve, target) is None:
        raise ConfigError(
            f"index.target_recall must be at most {curve[-1].recall:.4f}, the recall of {cells.probes} "
            f"cells a query, got {target:g}; lower it, or set index.exact to auto"
        )
    return cells, choose(curve, batch.num_items, rules)


def _build_cells(spark: SparkSession, cells: _Cells, seed: int) -> _Cells:
    batch = cells.batch

    def make_centroids(_: int) -> None:
        save_array(cells.centroids, train(open_array(batch.items), batch.longest, seed))

    _each(spark, 1, make_centroids)
    sides = ["items"] if cells.same else ["items", "queries"]
    for what in sides:
        _assign(spark, cells, what)

    def order_members(number: int) -> None:
        what = sides[number]
        home = open_array(cells.near(what)[0])[:, 0]
        order = np.argsort(home, kind="stable")
        starts = np.searchsorted(home[order], np.arange(cells.count + 1))
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        for place, values in zip(cells.order(what), (order, starts, places), strict=True):
            save_array(place, values.astype(np.int64))

    _each(spark, len(sides), order_members)
    width = open_array(cells.centroids).shape[1] - 1
    create_array(cells.by_cell, (batch.num_items, width), np.float32)

    def lay_out(block: int) -> None:
        stretch = slice(block * _ROWS, (block + 1) * _ROWS)
        order = open_array(cells.order("items")[0])[stretch]
        with ArrayWriter(cells.by_cell) as file:
            file.write_run(stretch.start, open_array(batch.items)[order])

    _each(spark, -(-batch.num_items // _ROWS), lay_out)
    return cells


def _assign(spark: SparkSession, cells: _Cells, what: str) -> None:
    """List the nearest cells of all items, or of all queries."""
    what = "items" if cells.same else what
    batch, listed = cells.batch, cells.listed(what)
    place, count = (batch.items, batch.num_items) if what == "items" else (batch.queries, batch.num_queries)
    longest = batch.longest if what == "items" else None
    for array, dtype in zip(cells.near(what), (np.int32, np.float32), strict=True):
        create_array(array, (count, listed), dtype)

    def assign(block: int) -> None:
        start = block * _ROWS
        vectors = np.ascontiguousarray(open_array(place)[start : start + _ROWS])
        found = nearest_cells(vectors, open_array(cells.centroids), listed, longest)
        for array, values in zip(cells.near(what), found, strict=True):
            with ArrayWriter(array) as file:
                file.write_run(start, values)

    _each(spark, -(-count // _ROWS), assign)


def _curve(spark: SparkSession, cells: _Cells, seed: int) -> tuple[Plan, ...]:
    """Recall by gap, on a keyed sample of the queries."""
    batch = cells.batch
    queries = sampled(batch.num_queries, _SAMPLE, seed)
    blocks = np.array_split(queries, min(len(queries), _PARTS_PER_CORE * _cores(spark)))

    def measure(number: int) -> list[dict[str, Any]]:
        rows = blocks[number]
        vectors = np.ascontiguousarray(open_array(batch.queries)[rows])
        lists, _ = top_k(vectors, open_array(batch.items), batch.k, batch.excluded.of(rows), batch.longest)
        starts = open_array(cells.order("items")[1])
        home = open_array(cells.near("items")[0])[:, 0]
        near, cosines = (open_array(place)[rows] for place in cells.near("queries"))
        gaps = gaps_of(cosines, sizes := np.diff(starts)[near], batch.k)
        needed = np.full(lists.shape, np.inf)  # the gap at which an item of the exact list is scored
        for row, place in np.argwhere(lists >= 0):
            at = np.flatnonzero(near[row] == home[lists[row, place]])
            if len(at):
                needed[row, place] = gaps[row, at[0]]
        return [
            {
                "query": int(query), "needed": needed[i][lists[i] >= 0].tolist(),
                "gaps": gaps[i].tolist(), "sizes": sizes[i].tolist(),
            }
            for i, query in enumerate(rows)
        ]  # fmt: skip

    schema = "query BIGINT, needed ARRAY<DOUBLE>, gaps ARRAY<DOUBLE>, sizes ARRAY<BIGINT>"
    seen = sorted(_each(spark, len(blocks), measure, schema), key=lambda row: row["query"])
    lists = [np.array(row["needed"]) for row in seen if row["needed"]]
    gaps, sizes = (np.array([row[name] for row in seen]) for name in ("gaps", "sizes"))
    return curve_of(lists, gaps, sizes, len(queries) == batch.num_queries)


def _by_cells(spark: SparkSession, cells: _Cells, gap: float) -> Rows:
    """Tasks take whole cells of queries, those near each other together; lists leave by query."""
    starts = open_array(cells.order("queries")[1])
    parts = min(cells.count, _PARTS_PER_CORE * _cores(spark))
    bounds = np.searchsorted(starts, np.linspace(0, starts[-1], parts + 1))
    bounds[0], bounds[-1] = 0, cells.count
    batch = cells.batch
    landed = _Landed(cells.order("queries")[2], cells.folder / "found.npy", cells.folder / "scores.npy")
    for place, dtype in ((landed.found, np.int32), (landed.scores, np.float32)):
        create_array(place, (batch.num_queries, batch.k), dtype)
    _each(spark, parts, _Search(cells, gap, tuple(bounds.tolist()), landed).land)
    return _numbered(spark, -(-batch.num_queries // _ROWS)).then(landed.run, LISTS)


@dataclass(frozen=True)
class _Landed:
    """Lists in the order of the cells: a task writes stretches, and no row of its own.

    Attributes:
        places: int64 [queries], where each query's list is.
        found: items int32 [queries, k], -1 behind the last.
        scores: fp32 [queries, k].
    """

    places: Place
    found: Place
    scores: Place

    def run(self, batches: Batches) -> Batches:
        """(number of a block) -> lists of its queries."""
        places, found, scores = (open_array(one) for one in (self.places, self.found, self.scores))
        for block in _numbers(batches):
            queries = np.arange(block * _ROWS, min(len(places), (block + 1) * _ROWS))
            rows = places[queries]
            yield _lists(queries, found[rows].astype(np.int64), scores[rows])


@dataclass(frozen=True)
class _Search:
    cells: _Cells
    gap: float
    bounds: tuple[int, ...]
    landed: _Landed

    def land(self, part: int) -> None:
        """Write the lists of the queries in a part's cells."""
        batch = self.cells.batch
        queries, (starts, items) = open_array(batch.queries), self.cells.layout()
        members, first, _ = (open_array(place) for place in self.cells.order("queries"))
        near, cosines = (open_array(place) for place in self.cells.near("queries"))
        sizes = np.diff(starts)
        begin, end = (first[self.bounds[one]] for one in (part, part + 1))
        with ArrayWriter(self.landed.found) as found, ArrayWriter(self.landed.scores) as scores:
            for low in range(begin, end, _TOGETHER):
                rows = members[low : min(end, low + _TOGETHER)]
                gaps = gaps_of(cosines[rows], sizes[near[rows]], batch.k)
                excluded = batch.excluded.of(rows)
                probed = np.where(gaps <= np.float32(self.gap), near[rows], np.int32(-1))
                lists = search(queries[rows], probed, starts, items, batch.longest, batch.k, excluded)
                found.write_run(low, lists[0])
                scores.write_run(low, lists[1])


@dataclass(frozen=True)
class _Scan:
    batch: Batch

    def run(self, batches: Batches) -> Batches:
        """(number of a block) -> lists of its queries."""
        batch = self.batch
        queries, items = open_array(batch.queries), open_array(batch.items)
        for block in _numbers(batches):
            rows = np.arange(block * QUERY_BLOCK, min(batch.num_queries, (block + 1) * QUERY_BLOCK))
            vectors = np.ascontiguousarray(queries[rows[0] : rows[-1] + 1])
            excluded = batch.excluded.of(rows)
            if batch.groups is None:
                yield _lists(rows, *top_k(vectors, items, batch.k, excluded, batch.longest))
            else:
                spread = (open_array(batch.groups), batch.at_most, batch.k, excluded, batch.longest)
                yield _lists(rows, *top_k_spread(vectors, items, *spread))


def _lists(queries: I64, found: I64, scores: F32) -> pa.RecordBatch:
    filled = found.ravel() >= 0
    ranks = np.tile(np.arange(1, found.shape[1] + 1, dtype=np.int32), len(found))
    return pa.RecordBatch.from_pydict(
        {
            "query": np.repeat(queries, found.shape[1])[filled],
            "item": found.ravel()[filled],
            "rank": ranks[filled],
            "score": scores.ravel()[filled],
        }
    )


def _numbers(batches: Batches) -> Iterator[int]:
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _cores(spark: SparkSession) -> int:
    return spark.sparkContext.defaultParallelism


def _numbered(spark: SparkSession, count: int) -> Rows:
    """The numbers 0, ..., count - 1 in tasks."""
    return Rows.of(spark.range(0, count, 1, max(1, min(count, _PARTS_PER_CORE * _cores(spark)))))


def _each(
    spark: SparkSession, count: int, work: Callable[[int], Any], schema: str = "done BOOLEAN"
) -> list[Any]:
    """Call `work` with each number inside tasks; the rows that it returned."""
    return _numbered(spark, count).then(functools.partial(_run_each, work), schema).to_frame().collect()


def _run_each(work: Callable[[int], Any], batches: Batches) -> Batches:
    for number in _numbers(batches):
        rows = work(number)
        if rows:
            yield pa.RecordBatch.from_pylist(rows)
