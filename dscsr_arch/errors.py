"""Faults that a user can mend, as data. Importing this costs nothing: no torch.

About ten classes: one is there where somebody catches it by name, and nowhere else. Whatever is only told to the user
is a plain `DscsrError`.
"""


class DscsrError(Exception):
    """A fault in what the user gave (a file, an option, a folder), not in the program.

    The command line prints it without a traceback and exits with code 1.

    Args:
        expected: What would have been right: ``"`scale` to be one of (2, 3, 4)"``. Alone, it is the whole message.
        got: What was there instead, in the words to be printed.
        remedy: What to do, as whole sentences.
        where: The file, option or image that it is about.
    """

    def __init__(self, expected: str, got: object = None, remedy: str = "", where: object = None) -> None:
        super().__init__(expected, got, remedy, where)  # as arguments: errors cross processes
        self.expected, self.got, self.remedy, self.where = expected, got, remedy, where

    def __str__(self) -> str:
        said = self.expected if self.got is None else f"Expected {self.expected}, but got {self.got}."
        place = "" if self.where is None else f"{self.where}: "
        return f"{place}{said} {self.remedy}".replace("\n. ", "\n").rstrip()  # a list of lines ends by itself


class WeightsError(DscsrError):
    """A weight file that cannot be read, or that does not fit the network it is for."""


class ArgumentError(DscsrError, ValueError):
    """An argument that a network cannot be built from; in Python a ValueError, as of any other network."""


class QuantizationError(DscsrError, ValueError):
    """A network that cannot be quantized, or one that is where it may not be."""


class SizeError(DscsrError):
    """A network that takes no images of any usual size, or an image of a size that it does not take."""


class LoRAError(DscsrError, ValueError):
    """LoRA that cannot be put into a network, or adapters that do not fit it."""


class ImageError(DscsrError):
    """An image file that cannot be read or written; the others of its folder go on."""


class DataError(DscsrError):
    """Training data (a store, a list, a pair of folders) that is not what it has to be."""


class DiskError(DscsrError):
    """The disk is full, or files cannot be written or have a name that is taken."""


class BusyError(DscsrError):
    """Another process works in the same place."""


class UnavailableError(DscsrError):
    """A library or a device that something needs is not here; the rest works without it."""


class DscsrWarning(UserWarning):
    """What a user should know of and need not stop for. The command line prints it as one line."""


def why_not_imported(error: Exception) -> str:
    """What is wrong with an optional package, as the ``got`` of an `UnavailableError`: it is missing, or broken.

    A broken one may raise anything: onnx beside another protobuf a TypeError.
    """
    if isinstance(error, ModuleNotFoundError):
        return f"no {error.name}"
    return f"one whose import fails: {str(error).partition(chr(10))[0].rstrip('.') or type(error).__name__}"
