"""The one base of every fault that a user can mend. Importing it costs nothing: no torch."""


class DscsrError(Exception):
    """A fault in what the user gave (a file, an option, a folder), not in the program.

    The message says what was expected, what was got, and what to do. The command line prints it without a
    traceback and exits with code 1.
    """


class DscsrWarning(UserWarning):
    """What a user should know of and need not stop for. The command line prints it as one line."""
