"""A submission to the NTIRE efficient super-resolution challenge: one file, its weights, the figures."""
