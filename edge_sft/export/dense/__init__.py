"""Export of models that say where: anomaly detection on pictures, detection, segmentation."""
