"""One file a framework; each builds a `Network` and imports its framework only when called."""
