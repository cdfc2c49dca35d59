"""Trains a model of the battery with a checkpoint after every step; the environment says where it dies.

python tests/support/killed_training.py ARCHITECTURE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from reference.network import MODELS, random_world
from walkbits.config import ModelSettings
from walkbits.settings import Training
from walkbits.training.checkpoints import Checkpoints
from walkbits.training.loop import Trained, train

TRAINING = Training(
    epochs=3, batch_size=16, num_negatives=7, train_neighbors=4, context_fraction=1.0,
    validation_fraction=0.2, patience=3,
)  # fmt: skip
SEED = 3


def run(
    model: ModelSettings, folder: Path | None, lines: list[str], training: Training = TRAINING
) -> Trained:
    """Train on the battery's world, with checkpoints in a folder."""
    checkpoints = None
    if folder is not None:
        checkpoints = Checkpoints(folder, {"settings": "a", "data": "b"}, 1e-9, lines.append)
    return train(model, training, random_world(4, 40, 30).data(model), SEED, lines.append, checkpoints)


if __name__ == "__main__":
    torch.set_num_threads(1)
    (wanted,) = (one for one in MODELS if one.architecture == sys.argv[1])
    trained = run(wanted, Path(sys.argv[2]), [])
    np.savez(Path(sys.argv[2]).with_suffix(".npz"), **trained.weights)  # type: ignore[arg-type]
