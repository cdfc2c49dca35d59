"""A reader of what is live: in a process of its own, by delta-rs, with the invariant that it may rely on.

    python tests/support/reader.py ROOT [STOPFILE]     one look, or one after the other until the file is there

Prints a line of JSON: what it saw how often, the runs shown, and whatever broke the invariant.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

KEYS = {
    "nodes": ["node_id"],
    "neighborhoods": ["relation", "node"],
    "embeddings": ["node_id"],
    "codes": ["code_bits", "node_id"],
    "code_directions": ["bit"],
    "lsh_buckets": ["band", "node_id"],
    "related": ["item_id", "rank"],
    "index_card": ["product", "gap"],
}
"""Published tables, and what orders a run's rows."""


def rows(root: Path, table: str, run_id: str) -> pa.Table:
    """A run's rows in key order, without the run."""
    delta = DeltaTable(str(root / table))
    found = delta.to_pyarrow_table(partitions=[("run_id", "=", run_id)]).drop_columns(["run_id"])
    return found.sort_by([(key, "ascending") for key in KEYS[table]]).select(sorted(found.column_names))


def bits(root: Path, run_id: str) -> dict[str, str]:
    """sha256 of a run's rows, by table."""
    return {
        name: hashlib.sha256(repr(rows(root, name, run_id).to_pylist()).encode()).hexdigest() for name in KEYS
    }


def pointer(root: Path, channel: str = "live") -> dict[str, Any] | None:
    """The newest publication of a channel, None before the first; its numbers are unique."""
    if not (root / "publications" / "_delta_log" / f"{0:020d}.json").exists():
        return None
    shown = [
        row
        for row in DeltaTable(str(root / "publications")).to_pyarrow_table().to_pylist()
        if row["channel"] == channel
    ]
    numbers = sorted(row["seq"] for row in shown)
    assert numbers == [*range(1, len(numbers) + 1)], f"publications are numbered {numbers}"
    return max(shown, key=lambda row: row["seq"], default=None)


def check(root: Path) -> str | None:
    """The run that is shown, None before the first.

    Raises:
        AssertionError: it is not whole, or its parts are of different runs.
    """
    shown = pointer(root)
    if shown is None:
        return None
    run_id = shown["run_id"]
    tables = {name: rows(root, name, run_id) for name in KEYS}
    counts = {name: table.num_rows for name, table in tables.items()}
    assert sum(counts.values()) == shown["rows"], (counts, shown["rows"])
    items = [row["external_id"] for row in tables["nodes"].to_pylist() if row["node_type"] == "item"]
    assert items, counts
    embedded = tables["embeddings"].filter(pa.compute.equal(tables["embeddings"]["node_type"], "item"))
    assert embedded["external_id"].to_pylist() == items
    vectors = np.array(embedded["embedding"].to_pylist(), np.float32)
    assert np.isfinite(vectors).all()
    codes = tables["codes"].to_pylist()
    widths = sorted({row["code_bits"] for row in codes})
    for width in widths:
        assert [row["external_id"] for row in codes if row["code_bits"] == width] == items, width
    bands = sorted({row["band"] for row in tables["lsh_buckets"].to_pylist()})
    width = max(64, 8 * len(bands))
    words = {row["node_id"]: row["code"] for row in codes if row["code_bits"] == width}
    for row in tables["lsh_buckets"].to_pylist():
        bit = 8 * row["band"]
        word = words[row["node_id"]][bit // 64] & 0xFFFFFFFFFFFFFFFF
        assert row["bucket"] == (word >> bit % 64) & 0xFF, row
    known = dict(zip(items, vectors, strict=True))
    for row in tables["related"].to_pylist():
        score = float(known[row["item_id"]] @ known[row["related_id"]])
        assert abs(score - row["score"]) < 1e-4, (row, score)
    return str(run_id)


def main() -> None:
    root, stop = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None
    seen: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    problems = []
    while True:
        try:
            shown[str(check(root))] += 1
            seen["whole"] += 1
        except AssertionError as error:
            seen["broken"] += 1
            problems.append(str(error)[:300])
        if stop is None or stop.exists():
            break
    sys.stdout.write(json.dumps({"seen": seen, "shown": shown, "problems": problems[:5]}) + "\n")


if __name__ == "__main__":
    main()
