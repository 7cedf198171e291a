"""Versions found by what is known of them, and two of them side by side."""
