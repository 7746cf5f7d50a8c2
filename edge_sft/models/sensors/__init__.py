"""Sensor models: a window and its validity in, everything after the window's making inside the graph."""
