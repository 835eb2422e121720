"""The named errors of the package, each with its exit code.

`main.py` alone turns errors into exit codes; all other code only raises.
"""

EXIT_PASS = 0
EXIT_CRITERION = 3
EXIT_INCONCLUSIVE = 4
EXIT_INTERRUPTED = 130


class RyotError(Exception):
    """Base of every error that the package raises on purpose; its message names the remedy."""

    exit_code = 1


class ConfigError(RyotError):
    """A flag or a config field has an invalid value."""

    exit_code = 2


class DataError(RyotError):
    """A file of the training or held-out text is missing, damaged or too short."""

    exit_code = 5


class CheckpointError(RyotError):
    """A checkpoint is missing, damaged, or of another model."""

    exit_code = 6


class NonFiniteLossError(RyotError):
    """A loss or gradient became NaN or infinite."""

    exit_code = 7


class Preempted(RyotError):
    """The run was asked to stop and saved itself; the same command resumes it."""

    exit_code = 75
