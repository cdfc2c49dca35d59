"""The settings that say where the caller's tables are and what their columns mean."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from walkbits.settings import FolderOrUri, Section


class Csv(Section):
    """How CSV is written. The defaults are RFC 4180: within quotes, quotes are doubled and lines may end."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Between fields: `,`, `;`, `|` or a tab."""
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None = '"'
    """Around fields that hold separators or line ends; null where every character is itself."""
    escape: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Stands before a quote, or before itself, within quotes: a backslash where Spark wrote by its defaults.
    Outside quotes it is an ordinary character."""
    encoding: str = "utf-8"
    """utf-8, cp1252, latin-1, utf-16, ... A file that is not valid in it is refused."""
    nulls: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan", "\\N")
    """Fields that mean a missing value, in every column."""
    columns: tuple[str, ...] | None = None
    """Names of the columns, where the files have no header line. Absent: the first line names them."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            "".encode(name)  # codecs such as base64 are none of text
            return codecs.lookup(name).name
        except (LookupError, UnicodeError) as error:
            raise ValueError("must be an encoding that Python knows, e.g. utf-8 or cp1252") from error

    @model_validator(mode="after")
    def _distinct_characters(self) -> Csv:
        marks = [mark for mark in (self.separator, self.quote, self.escape) if mark is not None]
        if len(set(marks)) < len(marks) or set(marks) & set("\r\n"):
            raise ValueError(f"separator, quote and escape must differ and be no line end, got {marks}")
        if self.escape and not self.quote:
            raise ValueError("escape needs quote: it counts within quotes only")
        return self

    @field_validator("columns")
    @classmethod
    def _names_of_their_own(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and (not all(columns) or len(set(columns)) < max(1, len(columns))):
            raise ValueError("must name each column, by a name of its own")
        return columns


class Source(Section):
    """Where a table is read from: a path (Parquet, CSV, Delta) or a catalog table name."""

    path: FolderOrUri | None = None
    """File or folder; no character is a pattern. Exactly one of `path` and `table` is given."""
    table: str | None = None
    """Catalog table, e.g. `shop.events`."""
    format: Literal["parquet", "csv", "delta"] = "parquet"
    """Format of `path`. A folder with a Delta log is read as Delta."""
    version: NonNegativeInt | None = None
    """Version of the Delta table at `path`. Absent: the newest when a run is opened; the run keeps to it."""
    csv: Csv = Csv()
    """For format csv: separator, quotes, encoding, nulls, header."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.table is None):
            raise ValueError("give exactly one of path and table")
        return self

    @model_validator(mode="after")
    def _nothing_is_passed_over(self) -> Source:
        if self.csv != Csv() and (self.path is None or self.format != "csv"):
            raise ValueError("csv needs path and format: csv, else it would say nothing")
        if self.version is not None and (self.path is None or self.format == "csv"):
            raise ValueError("version needs the path of a Delta table, else it would say nothing")
        return self


class Events(Source):
    """Rows of an item and a context."""

    item: str = "item_id"
    """Column of the item's id (string or integer)."""
    context: str = "context_id"
    """Column of the context's id: board, user, basket."""
    timestamp: str | None = None
    """Column of the event's time. With it, rows after the end of the run's day are left out."""
    timestamp_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None
    """Unit of times that are epoch integers, or such text. Absent: timestamps, dates or ISO text."""
    lookback_days: PositiveInt | None = None
    """Days of events up to and with the run's day; needs `timestamp`. Absent takes all, of impressions as
    many as of interactions."""

    @model_validator(mode="after")
    def _lookback_needs_time(self) -> Events:
        if self.lookback_days is not None and self.timestamp is None:
            raise ValueError("lookback_days needs timestamp")
        if self.timestamp_unit is not None and self.timestamp is None:
            raise ValueError("timestamp_unit needs timestamp")
        return self


class Interactions(Events):
    """Who touched what: one row per event."""

    weight: str | None = None
    """Column of a finite weight >= 0; absent means 1 per row."""


class Impressions(Events):
    """What was shown and not taken: one row per time shown."""


class NodeTable(Source):
    """A table with one row per item or context, and features from its columns."""

    name: str | None = None
    """Column shown to people beside the id."""
    text: tuple[str, ...] = ()
    """Columns of free text or lists of it, hashed TF-IDF together. Feature group `text`."""
    categorical: tuple[str, ...] = ()
    """Columns of labels or lists of them: text, integers, decimals, booleans, dates, timestamps. Feature
    group `categorical`."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers, standardised: finite numbers, booleans as 0 and 1, dates and timestamps as days.
    Nulls become the mean, NaN is bad input. Feature group `numeric`."""
    vectors: dict[str, Annotated[int, Field(ge=1, le=65_536)]] = Field(default_factory=dict)
    """Columns of vectors, e.g. of images, as `name: width`. ARRAY<FLOAT> or ARRAY<DOUBLE>, scaled to unit
    length; each is a feature group of its own. Rows whose vector is null, of another width or not finite are
    set aside."""

    @model_validator(mode="after")
    def _groups_are_distinct(self) -> NodeTable:
        taken = sorted(self.vectors.keys() & {"text", "categorical", "numeric", "degree"})
        if taken:
            raise ValueError(f"vectors must not be named like other feature groups, got {taken}")
        return self

    @property
    def id_column(self) -> str:
        """Column of the node's id."""
        raise AssertionError(f"{type(self).__name__} must name its id")

    @property
    def feature_columns(self) -> dict[str, Any]:
        """The columns that features come from, as JSON values; order matters."""
        return self.model_dump(mode="json", include={"text", "categorical", "numeric", "vectors"})


class Items(NodeTable):
    """The item table: one row per item."""

    item: str = "item_id"
    """Column of the item's id (string or integer)."""

    @property
    def id_column(self) -> str:
        """Column of the item's id."""
        return self.item


class Contexts(NodeTable):
    """The context table: one row per user, board or basket."""

    context: str = "context_id"
    """Column of the context's id (string or integer)."""

    @property
    def id_column(self) -> str:
        """Column of the context's id."""
        return self.context
