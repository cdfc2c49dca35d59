"""Checkpoints: all that a killed training needs to end with the bits of one that was not killed.

A checkpoint is one file, `<steps>-<sha256>.checkpoint`: safetensors of every array that a step changes, and
the course of the training as JSON. It is written atomically. The newest two are kept, so that a damaged one
costs an interval and no more. Draws are keyed by epoch and step: no generator has a state to save.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as safetensors_bytes

from walkbits.arrays.places import Place, files_below, read_bytes, remove, write_bytes
from walkbits.faults import hit

Arrays = dict[str, NDArray[Any]]

_KEPT: Final = 2
_SUFFIX: Final = ".checkpoint"
_COURSE: Final = "course"


@dataclass
class Course:
    """Where a training stands.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Its next step, from 0.
        sums: Of each figure of this epoch so far: the weighted sum, and the weights.
        ended: Means of the figures of every epoch that has ended.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    ended: list[dict[str, float]] = field(default_factory=list)

    def add(self, figures: Mapping[str, float], weight: float) -> None:
        """Count a step's figures."""
        for name, value in figures.items():
            total, weights = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = total + value * weight, weights + weight

    def mean(self, figure: str) -> float:
        """A figure's mean in this epoch so far."""
        total, weights = self.sums[figure]
        return total / weights

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.ended.append({name: self.mean(name) for name in self.sums})
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def best(self, figure: str) -> int | None:
        """The ended epoch, from 0, in which a figure was lowest: the first one of equals; None without it."""
        values = [one[figure] for one in self.ended if figure in one]
        return values.index(min(values)) if values else None


class Checkpoints:
    """The newest checkpoints of one training, in a folder of their own."""

    def __init__(
        self,
        folder: Place,
        about: Mapping[str, str],
        seconds: float | None,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a folder, which may hold checkpoints already.

        Args:
            folder: For these files alone.
            about: What decides the training's bits, by name: settings, data. torch and the device are added.
            seconds: Between two checkpoints; None writes none.
            report: Called with one line when a training goes on, or cannot.
            clock: Seconds.
        """
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        self._about = {**about, "torch": torch.__version__, "device": device}
        self._folder, self._seconds, self._report, self._clock = folder, seconds, report, clock
        self._last = clock()

    def newest(self) -> tuple[Course, Arrays] | None:
        """The newest whole checkpoint of this very training; others are deleted."""
        for name in reversed(self._names()):
            data = read_bytes(self._folder / name)
            if hashlib.sha256(data).hexdigest() not in name:
                self._report(f"checkpoint '{self._folder / name}' is damaged and not used")
                continue
            arrays = parse_safetensors(data)
            saved = json.loads(arrays.pop(_COURSE).tobytes())
            other = [one for one, value in self._about.items() if saved["about"].get(one) != value]
            if other:
                was, here = saved["about"].get(other[0]), self._about[other[0]]
                self._report(f"checkpoint of other {other[0]} not used, got {was} where this has {here}")
                break
            course = Course(**saved["course"])
            self._report(f"resumed from a checkpoint in epoch {course.epoch + 1} after step {course.step}")
            return course, arrays
        remove(self._folder)
        return None

    def due(self) -> bool:
        """Whether it is time for another one."""
        return self._seconds is not None and self._clock() - self._last >= self._seconds

    def save(self, number: int, course: Course, arrays: Arrays) -> None:
        """Write a checkpoint; arrays that are not finite are never one.

        Args:
            number: Steps done since the training's start.
            course: Where it stands.
            arrays: All that a step changes, by name.
        """
        self._last = self._clock()
        if not all(np.isfinite(one).all() for one in arrays.values()):
            return
        text = json.dumps({"about": self._about, "course": asdict(course)}).encode()
        data = safetensors_bytes({**arrays, _COURSE: np.frombuffer(text, np.uint8)})
        name = f"{number:012d}-{hashlib.sha256(data).hexdigest()}{_SUFFIX}"
        write_bytes(self._folder / name, data)
        hit("training.checkpoint")
        for old in self._names()[:-_KEPT]:
            remove(self._folder / old)

    def path(self) -> Place | None:
        """The newest file, if there is one."""
        names = self._names()
        return self._folder / names[-1] if names else None

    def _names(self) -> list[str]:
        return [name for name in files_below(self._folder) if name.endswith(_SUFFIX)]
