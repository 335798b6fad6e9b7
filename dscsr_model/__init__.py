"""Training, testing and shipping efficient super-resolution networks with BasicSR.

Importing this package has no side effect and imports neither BasicSR nor torch.
"""

__all__ = ["register"]


def register() -> None:
    """Patch BasicSR where this machine breaks it, import it, and register our networks, models, losses, datasets.

    The autoload calls this when somebody imports ``basicsr``. With ``DSCSR_AUTOLOAD=0``, call it before importing
    BasicSR. A repeat does nothing.

    Raises:
        dscsr_arch.errors.UnavailableError: BasicSR is not installed.
    """
    from dscsr_model.host import registration

    registration.register()
