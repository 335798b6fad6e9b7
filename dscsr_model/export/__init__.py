"""Networks out of training: weight files, ONNX models and programs that other software runs.

Nothing here imports BasicSR. Every output is loaded again and compared with its source before it gets its name.
"""
