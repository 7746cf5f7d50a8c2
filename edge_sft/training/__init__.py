"""Training: dataset and recipe in, checkpoint out."""
