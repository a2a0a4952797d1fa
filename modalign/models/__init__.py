"""The systems that the papers build from the methods."""
