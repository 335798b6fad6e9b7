"""Model classes that BasicSR's train and test loops run; registered by ``host/registration.py``."""

# First of all: it lets the autoload import and register the models of this package while none of them is half imported.
import basicsr  # noqa: F401
