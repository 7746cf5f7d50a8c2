"""Deploy: bundle in; a proven slot on a device out."""
