"""Query files and their arguments. Running them: tests/spark."""

import importlib.util
from pathlib import Path

import pytest
from walkbits.errors import InputError
from walkbits.tables.queries import load_query, parse_arguments
from walkbits.tools.query import first_paragraph

JOBS = Path(__file__).resolve().parents[2] / "jobs"
QUERIES = sorted((Path(__file__).resolve().parents[2] / "sql" / "queries").glob("*.sql"))

TEXT = """\
-- Items near one item.
--
-- Parameters: item_id   external id, e.g. '7'
--             how_many  rows wanted, e.g. 20
--             floor     least score, e.g. 0.5
-- Columns:    item_id
SELECT 1 AS item_id, CAST('2026-01-01 10:30:00' AS TIMESTAMP), col::int
FROM t
WHERE a = :item_id AND b > :floor
LIMIT :how_many;
"""


@pytest.fixture
def query_file(tmp_path: Path) -> Path:
    path = tmp_path / "near.sql"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.name)
def test_shipped_queries_describe_their_parameters(path: Path) -> None:
    query = load_query(path)
    examples = [f"{name}={p.example.strip(chr(39))}" for name, p in query.parameters.items()]
    assert set(parse_arguments(query, examples)) == set(query.parameters)


def test_arguments_take_the_type_of_the_example(query_file: Path) -> None:
    query = load_query(query_file)
    assert list(query.parameters) == ["item_id", "how_many", "floor"]
    assert not query.text.endswith(";")
    given = parse_arguments(query, ["item_id=007", "how_many=5", "floor=1"])
    assert given == {"item_id": "007", "how_many": 5, "floor": 1.0}
    assert type(given["floor"]) is float


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["item_id"], "NAME=VALUE"),
        (["item_id=7", "k=3"], "no parameter is named 'k'"),
        (["item_id=7"], "['how_many', 'floor'] must be given"),
        (["item_id=7", "how_many=many", "floor=0"], "how_many must be a number such as 20, got 'many'"),
    ],
)
def test_wrong_arguments_are_told(query_file: Path, pairs: list[str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arguments(load_query(query_file), pairs)
    assert told in str(caught.value)


def test_wrong_arguments_tell_what_the_query_takes(query_file: Path) -> None:
    with pytest.raises(InputError, match=r"item_id \(external id, e\.g\. '7'\)"):
        parse_arguments(load_query(query_file), [])


def test_equals_sign_inside_a_value(query_file: Path) -> None:
    assert (
        parse_arguments(load_query(query_file), ["item_id=a=b", "how_many=1", "floor=0"])["item_id"] == "a=b"
    )


def test_parameter_without_description(tmp_path: Path) -> None:
    path = tmp_path / "bad.sql"
    path.write_text("SELECT :hidden")
    with pytest.raises(InputError, match="hidden"):
        load_query(path)


def test_missing_file_tells_which_there_are() -> None:
    with pytest.raises(InputError, match=r"related_items\.sql"):
        load_query(Path("sql/queries/nothing.sql"))


def test_only_the_words_of_an_error_are_shown() -> None:
    message = (
        "[TABLE_NOT_FOUND] no table `x`. SQLSTATE: 42P01; line 1 pos 14;\n'Project [*]\n+- 'Relation\n\nJVM"
    )
    assert first_paragraph(message) == "[TABLE_NOT_FOUND] no table `x`. SQLSTATE: 42P01; line 1 pos 14"


@pytest.mark.parametrize(
    "argv", [["q.sql", "--root", "R", "item_id=p01"], ["--root", "R", "q.sql", "item_id=p01"]]
)
def test_values_may_follow_flags(argv: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("query_job", JOBS / "query.py")
    assert spec is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)  # type: ignore[union-attr]
    args = job.build_parser().parse_intermixed_args(argv)
    assert (args.file, args.arguments, args.root) == (Path("q.sql"), ["item_id=p01"], "R")
