"""Decisions inside your own Python program: no agent, no broker, ten lines.

python embed.py solar-cells-0.1.0.edge default.pub.pem pictures/*.jpg
"""

import sys

from edge_sft import Predictor

bundle, public_key, *pictures = sys.argv[1:]
with Predictor.from_bundle(bundle, public_key=public_key) as predictor:
    for picture in pictures:
        prediction = predictor.predict_image(picture)  # a file, or a frame [H, W, 3] RGB
        print(picture, prediction.verdict, prediction.label, prediction.score, f"{prediction.latency_ms:.1f} ms")
