"""The demo's data: names for people, files Spark can read, and the day the Makefile runs."""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from walkbits.config_file import load_config
from walkbits.tools import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("demo") / "raw"
    files = folder / "baskets.parquet", folder / "products.parquet"
    assert demo.prepare(*files)
    return files


def product(**values: object) -> dict[str, object]:
    row = {"product_id": 7, "department": "DELI", "brand": "National", "product_category": None}
    return row | {"product_type": None, "package_size": None} | values


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (product(), "Deli, National #7"),
        (product(product_category="BREAD"), "Bread, National #7"),
        (product(product_category="EGGS", product_type="EGGS"), "Eggs, National #7"),
        (
            product(product_category="TROPICAL FRUIT", product_type="BANANAS", package_size="40 LB"),
            "Bananas (Tropical Fruit), 40 LB, National #7",
        ),
        (product(product_category="MEN'S CARE"), "Men's Care, National #7"),
    ],
)
def test_product_names(row: dict[str, object], name: str) -> None:
    assert demo.product_names(pa.Table.from_pylist([row])).to_pylist() == [name]


def test_every_product_has_a_name_of_its_own(raw: tuple[Path, Path]) -> None:
    products = pq.read_table(raw[1])
    assert products.num_rows == 92_331
    assert products["name"].null_count == 0
    assert pc.count_distinct(products["name"]).as_py() == products.num_rows


def test_baskets_are_whole_and_readable_by_spark(raw: tuple[Path, Path]) -> None:
    baskets = pq.read_table(raw[0])
    assert baskets.num_rows == 1_469_307
    assert pc.count_distinct(baskets["basket_id"]).as_py() == 155_848
    assert baskets.schema.field("transaction_timestamp").type == pa.timestamp("us", tz="UTC")
    assert f"{pc.max(baskets['transaction_timestamp']).as_py():%Y-%m-%d}" == demo.LAST_DAY


def test_second_call_writes_nothing(raw: tuple[Path, Path]) -> None:
    before = [path.stat().st_mtime_ns for path in raw]
    assert not demo.prepare(*raw)
    assert [path.stat().st_mtime_ns for path in raw] == before


def test_damaged_layout_is_written_again(raw: tuple[Path, Path], tmp_path: Path) -> None:
    files = tmp_path / "b.parquet", tmp_path / "p.parquet"
    pq.write_table(pa.table({"x": [1]}), files[0])
    os.link(raw[1], files[1])
    assert demo.prepare(*files)
    assert pq.read_metadata(files[0]).num_rows == 1_469_307


def test_config_names_columns_that_exist(raw: tuple[Path, Path]) -> None:
    config = load_config(ROOT / "conf" / "demo.yaml")
    source, items = config.interactions, config.items
    baskets, products = (set(pq.read_schema(path).names) for path in raw)
    assert {source.item, source.context, source.timestamp} <= baskets
    assert {items.item, items.name, *items.text, *items.categorical, *items.numeric} <= products
    assert set(demo.SHOWN) <= {str(item) for item in pq.read_table(raw[1])[items.item].to_pylist()}


def test_makefile_runs_the_last_day() -> None:
    day = re.search(r"^DEMO_DS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert day is not None
    assert day[1] == demo.LAST_DAY


def test_without_its_config_the_demo_ends_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main(["prepare"]) == 6  # no conf/demo.yaml here
