"""Predicted launch measurements, one module per platform."""
