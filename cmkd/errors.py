"""Everything cmkd raises on purpose.

    CmkdError                  exit code
    |-- InputError             2   a file, option or value the user gave is wrong
    |   |-- ConfigError        2   a spec or config: carries file, line and key
    |   `-- DataError          2   a video, annotation or prepared data set
    |       `-- FileError      2   one file of them: carries path and reason
    |-- TrialFailed            1   at least one trial failed, or a regression was found
    `-- InfrastructureError    3   store, disk or engine failed; the same command resumes

The command line prints a CmkdError as one line, a ConfigError as one line per mistake, and exits
with its code; any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class CmkdError(Exception):
    """Base of all deliberate errors.

    Attributes:
        problem: what is wrong, with file and value.
        remedy: what to do; empty where `problem` says it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        # Both are arguments, so that an error crosses processes with its fields.
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem

    def _render_traceback_(self) -> list[str]:
        """The error in one line, for IPython and notebooks."""
        return [f"{type(self).__name__}: {self}"]


class InputError(CmkdError):
    """Input of the user that cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A spec file or a config value is wrong; `problem` has a line for each mistake."""


class DataError(InputError):
    """A video, an annotation file or a prepared data set is wrong."""


class FileError(DataError):
    """A video, clip or line of an annotation file cannot be used.

    Attributes:
        path: of the file.
        reason: `problem` without the path.
    """

    def __init__(self, path: object, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}", remedy)
        self.args = (path, reason, remedy)
        self.path = str(path)
        self.reason = reason


class TrialFailed(CmkdError):
    """A trial failed while others went on."""

    exit_code = 1


class InfrastructureError(CmkdError):
    """The tracking store, the disk or the engine failed; nothing computed is lost."""

    exit_code = 3
