"""The steps of `gpu.py`: each a function from a plan to figures."""
