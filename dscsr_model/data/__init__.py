"""From photographs to batches: scaling, LMDB, preparing, and the dataset; no BasicSR and no network in here."""
