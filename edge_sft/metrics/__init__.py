"""Metrics: numbers about predictions, with exact intervals, and what they mean in plant terms."""
