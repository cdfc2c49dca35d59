"""Where a root keeps its plain files: apart from those of any other root."""

from __future__ import annotations

import pytest
from walkbits.config import Config, artifacts_of


def place(root: str, artifacts: str | None = "/shared/artifacts") -> str:
    return str(
        artifacts_of(
            Config.model_validate({"root": root, "artifacts": artifacts, "interactions": {"path": "x"}})
        )
    )


@pytest.mark.parametrize("other", ["/data/b", "/data", "s3://bucket/a", "/data/a/_evaluation"])
def test_roots_that_share_a_folder_keep_apart(other: str) -> None:
    assert place("/data/a") != place(other)
    assert place("/data/a").startswith("/shared/artifacts/")


@pytest.mark.parametrize("same", ["/data/a/", "/data/./a", "/data/b/../a"])
def test_spellings_of_one_root_have_one_place(same: str) -> None:
    assert place("/data/a") == place(same)
    assert place("/data/a", None) == place(same, None) == "/data/a/_artifacts"
