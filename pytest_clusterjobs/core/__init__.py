"""What a job is: specification, resources, state, result, errors, units. Standard library only, no I/O."""
