"""One file per measure. A measure returns an `Estimate`, or a dictionary of them; it logs and writes nothing."""
