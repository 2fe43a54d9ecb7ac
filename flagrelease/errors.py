"""What can go wrong, one class a failure: its exit code, and the next step for the user.

Exit codes 1 to 3 are verdicts (REGRESSED, INCONCLUSIVE, INVALID); errors start at 10.
"""

from __future__ import annotations

import errno

# Of the system's errors, those that somebody has to do something about.
LASTING = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST,
        errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOEXEC,
    }
)  # fmt: skip


class FlagReleaseError(Exception):
    """A failure that the user can act on; it is shown without a traceback.

    `message` says what is wrong and where, `remedy` what to do next.
    """

    exit_code = 10
    transient = False
    """Whether it may pass by itself, so that a stage is tried again: a matter of machines and networks."""

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


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed when it is tried again: a fault of machines or networks, not of what was asked.

    Of errors that are not ours, those of the system and of connections are, except what somebody has to mend: a file
    that is not there, a right that is missing, a full disk.
    """
    from httpx import TransportError

    if isinstance(error, FlagReleaseError):
        return error.transient
    if isinstance(error, OSError):
        return error.errno not in LASTING
    return isinstance(error, TransportError)


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
    transient = True


class ServerSettingsError(ServerError):
    """The model server runs and cannot be used: its settings, or the model's, are wrong."""

    transient = False


class PortError(ServerError):
    """The port asked for is taken by another program."""

    exit_code = 16


class HarnessError(FlagReleaseError):
    """The evaluation could not be run: a task or its data is missing, or the server stopped answering."""

    exit_code = 17


class NoAnswerError(HarnessError):
    """The server stopped answering while it was asked."""

    transient = True


class BaselineError(FlagReleaseError):
    """There is no baseline to compare with, or its files were changed."""

    exit_code = 18


class StoreError(FlagReleaseError):
    """The database cannot be opened, read or written."""

    exit_code = 19


class StoreLockedError(StoreError):
    """Another process holds the database."""

    exit_code = 20
    transient = True


class StoreLostError(StoreError):
    """The database's server does not answer, or the connection to it broke."""

    transient = True


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


class NoRepositoryError(PublishError):
    """There is no repository to publish to, and none was to be created."""


class ItemFileError(FlagReleaseError):
    """A file of scored answers is missing, is not in its format, or cannot be compared with the other."""

    exit_code = 25


class CardFileError(FlagReleaseError):
    """A file of a model card cannot be read, or is not a model card."""

    exit_code = 26


class EngineError(FlagReleaseError):
    """The container engine does not answer, may not be used, or went away in the middle of something."""

    exit_code = 27
    transient = True


class ImageError(FlagReleaseError):
    """A container image cannot be built: something it is made of is missing or not allowed, or a step failed."""

    exit_code = 28


class RegistryError(FlagReleaseError):
    """A registry refused or did not answer, or holds something else than what was pushed."""

    exit_code = 29
    transient = True


class DeployError(FlagReleaseError):
    """Prefect refused a change or went away in the middle, or the user has to say whether something may go."""

    exit_code = 30


class StageTimeoutError(FlagReleaseError):
    """A stage of a release took longer than it may."""

    exit_code = 31


class ApprovalNeededError(FlagReleaseError):
    """A publication waits until somebody has approved it."""

    exit_code = 32

    def __init__(self, message: str, *, remedy: str, content: str = "") -> None:
        """`content`: revision of what is to be approved."""
        super().__init__(message, remedy=remedy)
        self.content = content


class BisectError(FlagReleaseError):
    """The guilty operators cannot be looked for: nothing to judge by, no operator, or the notes of another bisect."""

    exit_code = 34
