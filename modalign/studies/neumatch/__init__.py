"""The chapter "Aligning two sequences": its worlds, its rows, and lines that see no feature."""
