"""What is copied to the node and run there by path. Imports nothing of ours, and nothing but the standard library."""
