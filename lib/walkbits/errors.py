"""Everything walkbits raises on purpose, and the exit code each ends a job with.

A message names the parameter, the rule, the value seen and what to do. A job prints
it in one line and exits with the class's code; any other exception is a defect and
exits with 1 behind its stack trace.
"""

from __future__ import annotations


class WalkbitsError(Exception):
    """Infrastructure or resources are not as the job needs them. Base of all others."""

    exit_code = 1


class InputError(WalkbitsError):
    """The caller's data or model cannot be used: wrong schema, values, ids or files."""

    exit_code = 2


class ModelError(InputError):
    """A model is missing, damaged, or does not fit the features it is given."""

    exit_code = 8


class EmptyInputError(WalkbitsError):
    """A table that must hold rows holds none; nothing was written."""

    exit_code = 3


class LostRaceError(WalkbitsError):
    """Another run published first, or published something newer."""

    exit_code = 4


class AuditError(WalkbitsError):
    """The run's own tables broke a rule of the audit; nothing was published."""

    exit_code = 5


class ConfigError(WalkbitsError):
    """The configuration or a flag breaks a rule. Names the key, the rule and the value."""

    exit_code = 6


class MissingDependencyError(WalkbitsError):
    """An optional jar or package that this option needs is absent."""

    exit_code = 7


class TrainingError(WalkbitsError):
    """A training diverged: its loss or its weights are no longer finite."""

    exit_code = 9
