"""Geometry and time: raw frame → fixed-size uint8 tile, raw rows → fixed-length float32 windows with a validity mask.

The one place that training, export, federation and the device all call; arithmetic (normalisation and all after it)
lives in the graph.
"""

from edge_sft.preprocess.images import (
    IgnoreBox,
    Preprocess,
    Tiles,
    decode_for,
    decode_image,
    encoded_tensor,
    image_tensor,
    read_encoded,
    read_image,
    read_tensor,
    require_opencv,
)
from edge_sft.preprocess.windowing import Channel, OrderTracking, Windowing

AnyPreprocess = Preprocess | Windowing

__all__ = [
    "AnyPreprocess",
    "Channel",
    "IgnoreBox",
    "OrderTracking",
    "Preprocess",
    "Tiles",
    "Windowing",
    "decode_for",
    "decode_image",
    "encoded_tensor",
    "image_tensor",
    "read_encoded",
    "read_image",
    "read_tensor",
    "require_opencv",
]
