"""TensorRT and TensorRT-RTX behind one code path: building, caching, running, and the GPU's driver."""
