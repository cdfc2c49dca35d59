"""Rows set aside: how many are allowed, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.errors import InputError


def check_set_aside(source: str, reasons: Mapping[str | None, int], max_quarantined: float) -> None:
    """Refuse more rows to set aside than allowed.

    Args:
        source: Config section of the input.
        reasons: Rows per reason; None counts the good ones.

    Raises:
        InputError: with counts per reason.
    """
    total = sum(reasons.values())
    broken = {reason: rows for reason, rows in reasons.items() if reason is not None}
    if sum(broken.values()) > max_quarantined * total:
        listed = ", ".join(f"{rows} x {reason}" for reason, rows in sorted(broken.items()))
        raise InputError(
            f"ingest.max_quarantined: at most {max_quarantined:g} of the {source} may be set aside, got "
            f"{sum(broken.values())} of {total} ({listed}); fix them at their source or raise the limit"
        )


def set_aside(judged: DataFrame, source: str) -> DataFrame:
    """The rows with a reason, as those of the quarantine table."""
    return judged.where(F.col("reason").isNotNull()).select(F.lit(source).alias("source"), "reason", "row")
