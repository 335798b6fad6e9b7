"""Model classes that BasicSR's train and test loops run; registered by ``host/registration.py``."""
