"""What can go wrong in shipping a network."""

from __future__ import annotations

from dscsr_arch.errors import DscsrError


class ExportError(DscsrError):
    """A network that a format cannot hold, or an output that does not do what its source does."""


class NotHereError(ExportError):
    """A program that could be asked about an output, but not on this machine; the message says why."""
