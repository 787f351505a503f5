"""Reads the counts of the workers into dataclasses, and writes them as text for Prometheus."""
