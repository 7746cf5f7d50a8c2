"""Training of sensor models: runs and a sensor recipe in, checkpoint out."""
