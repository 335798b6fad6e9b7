"""Networks of dscsr in pure PyTorch: usable without BasicSR, without training code, from weight files alone."""
