"""Where a version comes from, what came of it, and whom a data set has touched (REG-8)."""
