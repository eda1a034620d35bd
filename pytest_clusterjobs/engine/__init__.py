"""What keeps jobs going: payload, store, monitor, runs and jobs."""
