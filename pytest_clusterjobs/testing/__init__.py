"""What authors of backends need for their tests."""
