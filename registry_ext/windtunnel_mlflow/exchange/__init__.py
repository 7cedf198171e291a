"""Records that leave this installation, and those that come: exports, imports, versions that move."""
