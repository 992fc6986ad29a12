"""One contract for every runtime that executes a network."""
