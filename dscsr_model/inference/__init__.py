"""Images through a finished network: engines that run it, tiles, files in and out. Works without BasicSR."""
