"""Throw-away real clusters, for CI and for trying things."""
