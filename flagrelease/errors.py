"""What can go wrong, one class a failure: its exit code, and the next step for the user.

Exit codes 1 to 3 are verdicts (REGRESSED, INCONCLUSIVE, INVALID); errors start at 10.
"""

from __future__ import annotations


class FlagReleaseError(Exception):
    """A failure that the user can act on; it is shown without a traceback.

    `message` says what is wrong and where, `remedy` what to do next.
    """

    exit_code = 10

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Message and next step."""
        return f"{self.message}\n  -> {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        """How to pickle."""
        # Prefect pickles a failed run's exception; the keyword-only remedy must survive that.
        return _rebuild, (type(self), self.message, self.remedy)


def _rebuild(cls: type[FlagReleaseError], message: str, remedy: str) -> FlagReleaseError:
    return cls(message, remedy=remedy)


class MatrixError(FlagReleaseError):
    """matrix.yaml, a chip file or a benchmark file is not valid."""

    exit_code = 11


class UnknownNameError(FlagReleaseError):
    """A cell, model, chip, engine, benchmark or release that is not there."""

    exit_code = 12


class PreflightError(FlagReleaseError):
    """This machine lacks something that the cell needs: a device, a tool, a package, space."""

    exit_code = 13


class WeightsError(FlagReleaseError):
    """The model's weights are missing, or their hash is not the stated one."""

    exit_code = 14


class ServerError(FlagReleaseError):
    """The model server died, or did not answer in time."""

    exit_code = 15


class PortError(ServerError):
    """The port asked for is taken by another program."""

    exit_code = 16


class HarnessError(FlagReleaseError):
    """The evaluation could not be run: a task or its data is missing, or the server stopped answering."""

    exit_code = 17


class BaselineError(FlagReleaseError):
    """There is no baseline to compare with, or its files were changed."""

    exit_code = 18


class StoreError(FlagReleaseError):
    """The database cannot be opened, read or written."""

    exit_code = 19


class StoreLockedError(StoreError):
    """Another process holds the database."""

    exit_code = 20


class StoreVersionError(StoreError):
    """The database was written by another version of FlagRelease."""

    exit_code = 21


class EvidenceError(FlagReleaseError):
    """A file of evidence is missing or is not what its hash says."""

    exit_code = 22


class OutputError(FlagReleaseError):
    """A card or publication cannot be written: read-only folder, full disk."""

    exit_code = 23


class PublishError(FlagReleaseError):
    """A publication was refused, or what was read back is not what was sent."""

    exit_code = 24


class ItemFileError(FlagReleaseError):
    """A file of scored answers is missing, is not in its format, or cannot be compared with the other."""

    exit_code = 25


class CardFileError(FlagReleaseError):
    """A file of a model card cannot be read, or is not a model card."""

    exit_code = 26


class EngineError(FlagReleaseError):
    """The container engine does not answer, may not be used, or went away in the middle of something."""

    exit_code = 27


class ImageError(FlagReleaseError):
    """A container image cannot be built: something it is made of is missing or not allowed, or a step failed."""

    exit_code = 28


class RegistryError(FlagReleaseError):
    """A registry refused or did not answer, or holds something else than what was pushed."""

    exit_code = 29


class DeployError(FlagReleaseError):
    """Prefect refused a change or went away in the middle, or the user has to say whether something may go."""

    exit_code = 30
