"""What the models are made of: each file says one thing and knows nothing of BasicSR."""
