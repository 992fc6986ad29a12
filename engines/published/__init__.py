"""The published profile: its files, its own whole-clip routine, and its place in the shared pipeline."""
