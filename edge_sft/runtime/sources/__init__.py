"""Where Samples come from. One file and one registry entry per kind, imported on use."""
