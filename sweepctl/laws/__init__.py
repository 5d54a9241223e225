"""Tables to laws. Pure: numpy arrays in, a law with intervals out; no store, no torch."""
