"""Operators, one module per part of a model's life."""
