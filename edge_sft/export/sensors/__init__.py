"""Export of sensor models: the same road as the pictures', over windows instead of tiles."""
