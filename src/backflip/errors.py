"""The errors a user can cause, and mend.

Every message says what happened, what was expected, and what to do. The command line prints these in one
line with exit code 2; anything else keeps its traceback, because it is a fault of ours.
"""


class BackflipError(Exception):
    """Common parent, so that a caller can catch every error that the user can mend."""


class ConfigError(BackflipError):
    """A setting is unknown, contradictory or out of range."""


class DataError(BackflipError):
    """A file, checkpoint or data set is missing, broken or of the wrong kind."""


class FunctionFailed(DataError):
    """A function of the user's raised, or returned what is none of its answers; mended, the run can go on. Printed as a DataError."""


class StoreError(BackflipError):
    """The store cannot be read or written: a newer schema, a full disk, a lock."""


class MissingExtra(BackflipError):
    """An optional dependency is needed and absent; the message holds the command that installs it."""
