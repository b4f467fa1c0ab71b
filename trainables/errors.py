"""Errors that a user can mend.

Every message is one sentence with the value that was found, what was expected and what to do about it; the
command line prints it without a traceback.
"""

from __future__ import annotations


class CortexSweepError(Exception):
    """Base of every error whose message is meant for the person at the terminal."""


class DataError(CortexSweepError):
    """A data set does not hold what its layout promises."""


class WeightsError(CortexSweepError):
    """Pretrained or tuned weights cannot be found, read or used."""


class ConfigError(CortexSweepError):
    """A setting of a trial or a sweep is not valid."""


class StorageError(CortexSweepError):
    """Something could not be written to, or read from, the place where results are kept."""


class NonFiniteLossError(CortexSweepError):
    """The training loss became NaN or infinite; the trial has no score."""
