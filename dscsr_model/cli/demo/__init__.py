"""``make demo``: from photographs to trained networks, a table and an image, with the commands a user would type."""
