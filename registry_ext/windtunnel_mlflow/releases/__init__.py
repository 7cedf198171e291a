"""Rollouts, their candidates, and people's orders on them."""
