"""Training of models that say where: detection and segmentation."""
