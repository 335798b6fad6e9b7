"""Losses: `functional` holds the maths, the classes are what option files name."""
