"""What the documents tell people to type works: targets, jobs, flags, files, settings, SQL."""

import re
import shlex
from pathlib import Path

import pytest
import sqlfluff
import yaml
from support.jobs import parser_of
from walkbits import errors
from walkbits.config import Config
from walkbits.schemas import TABLES
from walkbits.tables.queries import load_query, parse_arguments

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(language: str) -> list[str]:
    """Code blocks of all documents in one language, continued lines joined."""
    fenced = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [block for path in DOCUMENTS for block in fenced.findall(path.read_text(encoding="utf-8"))]


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


@pytest.mark.parametrize("command", commands())
def test_command_exists(command: str) -> None:
    program, *words = shlex.split(command)
    match program:
        case "make":
            check_make(words)
        case "spark-submit":
            check_submit(words)
        case "source":
            assert (ROOT / words[0]).is_file()
        case "pytest":
            assert (ROOT / words[0].partition("::")[0]).exists()
        case _:
            assert command == "unset SPARK_LOCAL_IP"


def check_make(words: list[str]) -> None:
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert {word for word in words if "=" not in word} <= TARGETS
    if "Q" in variables:
        query = load_query(ROOT / variables["Q"])
        assert parse_arguments(query, variables.get("ARGS", "").split())


def check_submit(words: list[str]) -> None:
    place = next(i for i, word in enumerate(words) if word.startswith("jobs/"))
    job = ROOT / words[place]
    assert job.is_file()
    given = parser_of(job).parse_args(words[place + 1 :])
    # conf/mine.yaml is the reader's own.
    assert given.config == "conf/mine.yaml" or (ROOT / given.config).is_file()
    if "--properties-file" in words:
        assert (ROOT / words[words.index("--properties-file") + 1]).is_file()


def test_every_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert targets == TARGETS
    assert targets == set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))


def test_make_words_in_prose_are_targets() -> None:
    prose = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert set(re.findall(r"`make ([a-z-]+)", prose)) <= TARGETS


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configuration_is_valid(block: str) -> None:
    Config.model_validate(yaml.safe_load(block))


@pytest.mark.parametrize("block", blocks("sql"))
def test_sql_passes_the_linter(block: str) -> None:
    problems = sqlfluff.lint(block, config_path=str(ROOT / ".sqlfluff"))
    assert not problems


@pytest.mark.parametrize("view", sorted(set(re.findall(r"\bpublished_\w+", README))))
def test_view_exists(view: str) -> None:
    assert (ROOT / "sql" / "views" / f"{view}.sql").is_file()


def test_every_table_is_described() -> None:
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(TABLES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [document.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = [ROOT / path for path in re.findall(r"`((?:jobs|conf|lib|sql|docs|tests)/[\w./-]+)`", text)]
    missing = [str(path) for path in [*links, *named] if not path.exists()]
    assert not missing


def test_exit_codes_are_those_of_the_errors() -> None:
    told = re.search(r"Exit codes: (.*?)\.\n", README, re.DOTALL)
    assert told is not None
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {int(code) for code in re.findall(r"\b\d\b", told[1])} == {kind.exit_code for kind in classes}
