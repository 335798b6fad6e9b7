"""``make demo``: from photographs to trained networks, a table and a picture, with the commands a user would type."""
