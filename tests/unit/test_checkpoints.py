"""Checkpoints: a killed training ends with the bits of one that was not; others are not taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.network import MODELS, random_world
from support.killed_training import SEED, TRAINING, run
from walkbits.arrays.places import Place, exists, files_below, place_of
from walkbits.cli import exit_code
from walkbits.errors import TrainingError
from walkbits.faults import FAULT, TRACE
from walkbits.models.base import ModelSettings
from walkbits.settings import config_hash
from walkbits.training import checkpoints as module
from walkbits.training.checkpoints import Checkpoints, Course
from walkbits.training.loop import Trained, train

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "support" / "killed_training.py"
MODEL = next(one for one in MODELS if one.architecture == "item_pool")

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda one: one.architecture)


class Stopped(BaseException):
    """What a kill is inside one process."""


def assert_same(found: Trained, expected: Trained) -> None:
    assert found.metrics == expected.metrics
    assert found.weights.keys() == expected.weights.keys()
    for name, array in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name].view(np.uint32), array.view(np.uint32))


def stop_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """Have the training stop once so many checkpoints are written."""
    left = [saves]

    def hit(name: str) -> None:
        assert name == "training.checkpoint"
        left[0] -= 1
        if not left[0]:
            raise Stopped

    monkeypatch.setattr(module, "hit", hit)


def checkpoint(folder: Place, **about: str) -> tuple[Checkpoints, list[str]]:
    lines: list[str] = []
    return Checkpoints(folder, {"settings": "a", "data": "b"} | about, 1e-9, lines.append), lines


@each_model
def test_a_training_stopped_anywhere_ends_with_the_same_bits(
    model: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, None, [])
    with monkeypatch.context() as patched:
        for saves in (1, 2, 1):  # stopped three times, also in an attempt that itself resumed
            stop_after(patched, saves)
            with pytest.raises(Stopped):
                run(model, tmp_path, [])
    lines: list[str] = []
    resumed = run(model, tmp_path, lines)
    assert lines[0] == "resumed from a checkpoint in epoch 1 after step 4"
    assert_same(resumed, whole)


def test_a_training_stopped_at_the_end_of_an_epoch_or_of_them_all_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(MODEL, None, [])
    counted: list[str] = []
    monkeypatch.setattr(module, "hit", counted.append)
    assert_same(run(MODEL, tmp_path / "counted", []), whole)
    steps, rest = divmod(len(counted), TRAINING.epochs)
    assert steps > 2
    assert not rest
    for saves in (steps, 2 * steps + 1, 3 * steps):
        with monkeypatch.context() as patched:
            stop_after(patched, saves)
            with pytest.raises(Stopped):
                run(MODEL, tmp_path / str(saves), [])
        assert_same(run(MODEL, tmp_path / str(saves), []), whole)


@pytest.mark.parametrize(
    "model",
    [
        # item_pool has weights and a table of rows; an interpreter with torch takes seconds to start
        pytest.param(one, id=one.architecture, marks=[] if one is MODEL else [pytest.mark.slow])
        for one in MODELS
    ],
)
def test_a_training_killed_with_signal_9_ends_with_the_same_bits(
    model: ModelSettings, tmp_path: Path
) -> None:
    folder, trace = tmp_path / "checkpoints", tmp_path / "trace"
    environment = os.environ | {
        FAULT: "training.checkpoint",
        TRACE: str(trace),
        "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}",
    }
    command = [sys.executable, str(PROGRAM), model.architecture, str(folder)]
    killed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert trace.read_text().split() == ["training.checkpoint"]
    assert not folder.with_suffix(".npz").exists()
    lines: list[str] = []
    resumed = run(model, folder, lines)
    assert lines[0] == "resumed from a checkpoint in epoch 1 after step 1"
    assert_same(resumed, run(model, None, []))


@pytest.mark.parametrize("name", ["settings", "data", "torch", "device"])
def test_a_checkpoint_of_another_training_is_not_taken_and_deleted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        run(MODEL, tmp_path / "c", [])
    about = {}
    if name == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    elif name == "device":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    else:
        about = {name: "z"}
    found, lines = checkpoint(tmp_path / "c", **about)
    assert found.newest() is None
    (line,) = lines
    assert line.startswith(f"checkpoint of other {name} not used, got ")
    assert not (tmp_path / "c").exists()


def test_two_are_kept_and_a_damaged_one_costs_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 3)
    with pytest.raises(Stopped):
        run(MODEL, tmp_path, [])
    names = sorted(one.name for one in tmp_path.iterdir())
    assert [int(name.split("-")[0]) for name in names] == [1, 2, 3]  # stopped before it deletes
    monkeypatch.setattr(module, "hit", lambda name: None)
    (tmp_path / "000000000004.writing").write_bytes(b"half of")  # what a kill while writing leaves
    data = bytearray((tmp_path / names[2]).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / names[2]).write_bytes(data)
    lines: list[str] = []
    resumed = run(MODEL, tmp_path, lines)
    assert "is damaged and not used" in lines[0]
    assert lines[1] == "resumed from a checkpoint in epoch 1 after step 2"
    assert_same(resumed, run(MODEL, None, []))
    assert len(list(tmp_path.glob("*.checkpoint"))) == 2
    for one in tmp_path.glob("*.checkpoint"):
        one.write_bytes(b"")
    again, lines = checkpoint(tmp_path)
    assert again.newest() is None
    assert len(lines) == 2


def test_the_interval_is_kept_and_decides_nothing(tmp_path: Path) -> None:
    now = [0.0]
    timed = Checkpoints(tmp_path, {}, 60.0, lambda line: None, lambda: now[0])
    now[0] = 59.0
    assert not timed.due()
    now[0] = 60.0
    assert timed.due()
    timed.save(1, Course(), {"x": np.zeros(2, np.float32)})
    now[0] = 119.0
    assert not timed.due()
    assert not Checkpoints(tmp_path, {}, None, lambda line: None, lambda: now[0]).due()
    often = TRAINING.model_copy(update={"checkpoint_seconds": 1.0})
    assert config_hash(often) == config_hash(TRAINING)


@pytest.mark.parametrize("uri", [False, True])
def test_where_a_training_stands_survives_the_file(tmp_path: Path, uri: bool) -> None:
    folder = place_of((tmp_path / "x").as_uri()) if uri else tmp_path / "x"
    course = Course(1, 2, {"loss": (0.1 + 0.2, 7.0)}, [{"loss": 1 / 3}])
    state = {"a/b": np.arange(3, dtype=np.float32), "steps": np.array(5, np.int64)}
    assert checkpoint(folder)[0].newest() is None
    for number in (7, 8, 9):
        checkpoint(folder)[0].save(number, course, state)
    assert len(files_below(folder)) == 2
    found = checkpoint(folder)[0].newest()
    assert found is not None
    assert json.dumps(vars(found[0])) == json.dumps(vars(course))
    assert found[1].keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(found[1][name], array)
        assert found[1][name].dtype == array.dtype
    assert checkpoint(folder, data="other")[0].newest() is None
    assert not exists(folder)


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step size that no training survives: weights overflow after a good first step."""
    model = next(one for one in MODELS if one.architecture == "pinsage")
    wild = TRAINING.model_copy(update={"learning_rate": 1e38})
    lines: list[str] = []
    kept = Checkpoints(tmp_path, {}, 1e-9, lines.append)
    data = random_world(4, 40, 30).data(model)
    gentle = TRAINING.model_copy(update={"epochs": 1})
    train(model, gentle, data, SEED, lines.append, kept)
    good = kept.path()
    assert good is not None
    with pytest.raises(TrainingError, match="must stay finite") as caught:
        train(model, wild, data, SEED, lines.append, kept)
    assert "lower training.learning_rate, got 1e+38" in str(caught.value)
    assert f"the last good checkpoint is '{kept.path()}'" in str(caught.value)
    found = Checkpoints(tmp_path, {}, None, lines.append).newest()
    assert found is not None
    assert all(np.isfinite(one).all() for one in found[1].values())

    def fails() -> None:
        raise caught.value

    assert exit_code(fails) == 9
