"""Run functions and tests as real jobs on clusters, from pytest."""
