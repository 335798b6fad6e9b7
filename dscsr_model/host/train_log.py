"""What BasicSR's train loop leaves out of TensorBoard: the learning rate."""

from __future__ import annotations

from typing import Any


def install(namespace: dict[str, Any]) -> None:
    """Let the train loop in this module's ``namespace`` write it. A repeat, or a module without it, is let be."""
    logger = namespace.get("MessageLogger")
    if logger is None or hasattr(logger, "dscsr_writes_rates"):
        return

    class MessageLogger(logger):  # type: ignore[misc, valid-type]
        """BasicSR's, which prints the learning rates but does not plot them."""

        dscsr_writes_rates = True

        def __call__(self, log_vars: dict[str, Any]) -> None:
            if self.tb_logger is not None:
                for number, rate in enumerate(log_vars["lrs"]):
                    self.tb_logger.add_scalar(f"lr_{number}" if number else "lr", rate, log_vars["iter"])
            super().__call__(log_vars)

    namespace["MessageLogger"] = MessageLogger
