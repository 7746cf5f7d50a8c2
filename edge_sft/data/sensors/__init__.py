"""Sensor data: files of rows → runs with groups, labels and splits."""
