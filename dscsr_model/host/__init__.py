"""The door to BasicSR: everything that mends it, registers with it, or starts it stands in this folder."""
