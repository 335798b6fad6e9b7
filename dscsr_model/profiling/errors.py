"""What can be wrong about a wish to measure a network."""

from dscsr_arch.errors import DscsrError


class ProfileError(DscsrError):
    """A network, a size, or a setting that cannot be measured."""
