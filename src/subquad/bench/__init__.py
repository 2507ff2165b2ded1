"""Measurements: architectures beside each other on equal terms."""
