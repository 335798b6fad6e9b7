"""Networks as single files that import torch alone, for Python 3.9 and torch 1.13: the source of what is handed in.

They hold what is left after training: plain convolutions, official names. Each builds without arguments.
"""
