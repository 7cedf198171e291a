"""Numbers in, numbers out: tests that may be watched, distances, sketches. No clock, disk or network."""
