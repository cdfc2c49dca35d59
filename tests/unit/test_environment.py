"""conf/env.sh and conf/setup.sh as a shell meets them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ["bash", "zsh"]
VARIABLES = ("SPARK_CONF_DIR", "PYSPARK_PYTHON", "JAVA_HOME", "SPARK_LOCAL_IP", "SPARK_HOME", "PYTHONPATH")


def shell(name: str, script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | env
    return subprocess.run(
        [name, "-c", script], cwd=cwd, env=clean, text=True, capture_output=True, check=False
    )


def project(folder: Path) -> Path:
    """A copy of what set-up and activation read, in a folder with a space in its name."""
    copy = folder / "a project"
    copy.mkdir()
    shutil.copytree(ROOT / "conf", copy / "conf")
    for name in ("versions.env", "requirements.lock", "setup.py"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.mark.parametrize("name", SHELLS)
def test_activation_from_any_folder(name: str, tmp_path: Path) -> None:
    show = "; ".join(f'echo "${{{variable}-unset}}"' for variable in VARIABLES)
    done = shell(name, f"set -eu; . '{ROOT}/conf/env.sh'; {show}", tmp_path, PYTHONPATH="/x", SPARK_HOME="/x")
    assert done.returncode == 0, done.stderr
    values = dict(zip(VARIABLES, done.stdout.splitlines(), strict=True))
    assert values["SPARK_CONF_DIR"] == str(ROOT / "conf")
    assert values["PYSPARK_PYTHON"] == str(ROOT / ".venv/bin/python")
    assert (Path(values["JAVA_HOME"]) / "bin" / "java").exists()
    assert (Path(values["SPARK_HOME"]) / "bin" / "spark-submit").exists()
    assert values["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert values["PYTHONPATH"] == "unset"


@pytest.mark.parametrize("name", SHELLS)
def test_own_address_is_kept(name: str, tmp_path: Path) -> None:
    done = shell(name, f". '{ROOT}/conf/env.sh'; echo $SPARK_LOCAL_IP", tmp_path, SPARK_LOCAL_IP="10.0.0.7")
    assert done.stdout.strip() == "10.0.0.7"


@pytest.mark.parametrize("name", SHELLS)
def test_activation_before_set_up_tells_the_command(name: str, tmp_path: Path) -> None:
    copy = project(tmp_path)
    done = shell(name, ". conf/env.sh || exit 3", copy)
    assert done.returncode == 3
    assert f"make -C '{copy}' setup" in done.stderr


def test_set_up_without_python_tells_what_to_install(tmp_path: Path) -> None:
    copy, tools = project(tmp_path), tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "sha256sum", "id", "flock", "mkdir"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = shell("bash", "conf/setup.sh", copy, PATH=str(tools))
    assert done.returncode == 1
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


def test_set_up_that_is_current_does_nothing() -> None:
    done = subprocess.run(
        [ROOT / "conf" / "setup.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert not done.stdout + done.stderr
