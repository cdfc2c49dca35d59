"""CSV by RFC 4180 and by the dialects of a config: each row whole, or refused with file and line."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from walkbits.errors import InputError
from walkbits.ingest.csv_files import parsed
from walkbits.input_settings import Csv

COLUMNS = ("item", "name", "brand")
FIELDS = st.text(
    st.one_of(
        st.sampled_from(',;"\t\n\r\\ é\u0301\u2028\x0b\x1c\x85中'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=8,
)
TABLES = st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=12)


def rows_of(
    file: Path, dialect: Csv | None = None, columns: tuple[str, ...] = COLUMNS
) -> list[tuple[Any, ...]]:
    batches = parsed(file, dialect or Csv(), columns, "items")
    return [row for batch in batches for row in zip(*batch, strict=True)]


def written(tmp_path: Path, text: str | bytes, name: str = "items.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_lines_end_within_quotes_and_quotes_are_doubled(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'item,name,brand\r\np01,apple,"nice\nand cheap, too"\r\np38,"19"" monitor, black",b9\r\n007," ",\r\n',
    )
    assert rows_of(file) == [
        ("p01", "apple", "nice\nand cheap, too"),
        ("p38", '19" monitor, black', "b9"),
        ("007", " ", None),
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("p01,apple,b1\np02,apple,red,b2\n", "must have 3 fields as the header, got 4 in line 3"),
        ("p01,apple\n", "must have 3 fields as the header, got 2 in line 2"),
        ('p01,"two\nlines",b1\np02,short\n', "got 2 in line 4"),
        ('p01,apple,b1\np02,"never closed,b2\np03,pear,b3\n', "in the row that begins in line 3"),
        ('p01,apple,"never closed\np03,pear,b3\n', "in the row that begins in line 2"),
        ('p01,"closed" early,b1\n', "expected after"),
        ('p01,"spark\\"s",b1\n', "expected after"),
    ],
)
def test_a_torn_row_is_refused_with_file_and_line(tmp_path: Path, body: str, told: str) -> None:
    file = written(tmp_path, "item,name,brand\n" + body)
    with pytest.raises(InputError) as caught:
        rows_of(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)  # a worker's error reaches the driver as one line


@pytest.mark.parametrize("start", [0, 300_000])
def test_other_bytes_than_the_encodings_are_refused_with_their_line(tmp_path: Path, start: int) -> None:
    lines = ["item,name,brand"] + ["p,apple,b"] * start + ["p,caf\xe9,b", "q,pear,b"]
    file = written(tmp_path, "\n".join(lines).encode("latin-1"))
    with pytest.raises(
        InputError, match=rf"valid utf-8, got other bytes in line {start + 2} of .*csv\.encoding"
    ):
        rows_of(file)
    if not start:
        assert rows_of(file, Csv(encoding="latin-1"))[0] == ("p", "café", "b")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_are_read_without_their_mark(tmp_path: Path, encoding: str) -> None:
    file = written(tmp_path, "item,name,brand\np,café,b\n".encode(encoding))
    dialect = Csv(encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert rows_of(file, dialect) == [("p", "café", "b")]


@pytest.mark.parametrize("encoding", ["shift-jis", "gb18030", "utf-16-le", "cp1251"])
def test_encodings_whose_bytes_hold_separators_and_quotes(tmp_path: Path, encoding: str) -> None:
    name = "Дом" if encoding == "cp1251" else "表ソ能"  # in Shift-JIS with a backslash as the second byte
    file = written(tmp_path, f'item,name,brand\np,"{name}, ""x""",b\n'.encode(encoding))
    assert rows_of(file, Csv(encoding=encoding)) == [("p", f'{name}, "x"', "b")]


@pytest.mark.parametrize("separator", [";", "|", "\t", "\x01", "¦", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, separator: str, end: str) -> None:
    lines = ["item,name,brand", "p,n,", 'q,"a,b",c']
    file = written(tmp_path, "".join(line.replace(",", separator) + end for line in lines))
    assert rows_of(file, Csv(separator=separator)) == [("p", "n", None), ("q", f"a{separator}b", "c")]


@pytest.mark.parametrize(
    ("data", "name", "told"),
    [
        (
            gzip.compress(b"item,name,brand\n" + b"p,n,b\n" * 9999, mtime=0)[:60],
            "t.csv.gz",
            "files must be readable",
        ),
        (b"item,name,brand\np,n,b\n", "t.csv.gz", "files must be readable"),
        (gzip.compress(b"item,name,brand\np,n,b\n", mtime=0), "t.csv", "known by its ending"),
        ("item,name,brand\np,n,b\n".encode("utf-16-le"), "t.csv", "must have the same columns"),
        (b"item,name,brand\np,n," + b"x" * ((1 << 24) + 1), "t.csv", "field larger than field limit"),
        (b"item;name;brand\np;n;b\n", "t.csv", "must have the same columns"),
        (b"item,name,brand\np,n,b\n\x1a", "t.csv", "got 1 in line 3"),
    ],
)
def test_files_that_are_no_such_csv(tmp_path: Path, data: bytes, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        rows_of(written(tmp_path, data, name))


def test_long_lines_empty_fields_and_one_column(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    assert rows_of(written(tmp_path, f"item,name,brand\np,{long},b\n")) == [("p", long, "b")]
    assert rows_of(written(tmp_path, 'item\n""\n\nq\n'), columns=("item",)) == [(None,), ("q",)]


def test_columns_are_found_by_each_files_own_header(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path, "brand,item,name\nb,p,n\n")) == [("p", "n", "b")]
    with pytest.raises(InputError, match=r"same columns, got \['item', 'label', 'name'\]"):
        rows_of(written(tmp_path, "item,label,name\np,n,b\n"))


def test_a_file_without_a_header_is_named_by_the_config(tmp_path: Path) -> None:
    file = written(tmp_path, "p;n;b\nq;'m;1';\n")
    dialect = Csv(columns=COLUMNS, separator=";", quote="'")
    assert rows_of(file, dialect) == [("p", "n", "b"), ("q", "m;1", None)]


def test_without_quotes_each_character_is_itself(tmp_path: Path) -> None:
    file = written(tmp_path, 'item\tname\tbrand\np\t19" monitor\t"b\n')
    assert rows_of(file, Csv(separator="\t", quote=None)) == [("p", '19" monitor', '"b')]


def test_spark_escapes_within_quotes_only(tmp_path: Path) -> None:
    # As Spark writes by its defaults, with a value that starts with two backslashes.
    file = written(tmp_path, 'item,name,brand\n\\\\server\\x,"q\\"q, \\\\",end\\\n')
    assert rows_of(file, Csv(escape="\\")) == [("\\\\server\\x", 'q"q, \\', "end\\")]


def test_quotes_open_at_the_start_of_a_field_only(tmp_path: Path) -> None:
    file = written(tmp_path, 'item,name,brand\np,19" \\\\a,"b\\\\c"\nq,"d""e\\"f\n",g\n"","h\\"",""\n')
    assert rows_of(file, Csv(escape="\\")) == [
        ("p", '19" \\\\a', "b\\c"),
        ("q", 'd"e"f\n', "g"),
        (None, 'h"', None),
    ]


@given(table=TABLES)
def test_what_is_escaped_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, ...]]
) -> None:
    def quoted(field: str) -> str:
        return '"' + field.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "".join(",".join(map(quoted, row)) + "\r\n" for row in [COLUMNS, *table])
    file = tmp_path_factory.mktemp("csv") / "items.csv"
    file.write_bytes(text.encode())
    nulls = Csv().nulls
    assert rows_of(file, Csv(escape="\\")) == [tuple(None if f in nulls else f for f in row) for row in table]


def test_missing_values_have_names_of_their_own(tmp_path: Path) -> None:
    file = written(tmp_path, "item,name,brand\nNULL,\\N,NaN\n-,NA,None\n")
    assert rows_of(file) == [(None, None, None), ("-", "NA", "None")]
    assert rows_of(file, Csv(nulls=("-",))) == [("NULL", "\\N", "NaN"), (None, "NA", "None")]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_holds_no_rows(tmp_path: Path, text: str) -> None:
    assert rows_of(written(tmp_path, text)) == []


def test_a_header_may_follow_empty_lines_and_a_file_may_be_compressed(tmp_path: Path) -> None:
    file = written(tmp_path, gzip.compress(b"\n\nitem,name,brand\np,n,b\n\n"), "items.csv.gz")
    assert rows_of(file) == [("p", "n", "b")]


@given(
    table=TABLES,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_python_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, ...]], quoting: Any, end: str
) -> None:
    # Python 3.11 leaves a lone carriage return unquoted where rows end otherwise: such a file is torn already.
    assume(quoting == csv.QUOTE_ALL or end == "\r\n" or not any("\r" in f for row in table for f in row))
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerows([COLUMNS, *table])
    file = tmp_path_factory.mktemp("csv") / "items.csv"
    file.write_bytes(text.getvalue().encode())
    nulls = Csv().nulls
    assert rows_of(file) == [tuple(None if f in nulls else f for f in row) for row in table]


@pytest.mark.parametrize(
    "wrong",
    [
        {"separator": ",,"},
        {"separator": '"'},
        {"encoding": "klingon"},
        {"encoding": "base64"},
        {"encoding": "undefined"},
        {"quote": None, "escape": "\\"},
    ],
)
def test_a_dialect_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Csv(**wrong)
