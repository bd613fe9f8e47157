#!/usr/bin/env python3
"""Times what preparing an image costs on one core: decode, bicubic resize, normalise, cut into patches, as the
processor of Qwen2-VL does it (Pillow and numpy; the served one uses torchvision). Needs pillow and numpy. Its
figures stand in the `images:` part of the engine profiles.
"""
import io
import time

import numpy as np
from PIL import Image

RNG = np.random.default_rng(1)
UNIT, PATCH = 28, 14


def photo(width, height):
    small = RNG.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC)).astype(np.int16)
    noisy = np.clip(smooth + RNG.integers(-8, 8, smooth.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=90)
    return out.getvalue()


def prepare(jpeg, width, height):
    times = [time.perf_counter()]
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.load()
    times.append(time.perf_counter())
    w, h = round(width / UNIT) * UNIT, round(height / UNIT) * UNIT
    image = image.resize((w, h), Image.BICUBIC)
    times.append(time.perf_counter())
    pixels = (np.asarray(image, dtype=np.float32) / 255 - 0.48) / 0.27
    times.append(time.perf_counter())
    frames = np.stack([pixels, pixels]).transpose(0, 3, 1, 2)
    grid = frames.reshape(1, 2, 3, h // UNIT, 2, PATCH, w // UNIT, 2, PATCH)
    np.ascontiguousarray(grid.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 6 * PATCH * PATCH))
    times.append(time.perf_counter())
    return [b - a for a, b in zip(times, times[1:])], w * h / 1e6


print("size         decode, ms/MP   resize, normalise, patches: ms per prepared MP")
for width, height in [(512, 512), (1024, 768), (1920, 1080), (2048, 2048)]:
    jpeg = photo(width, height)
    runs = [prepare(jpeg, width, height) for _ in range(7)]
    best = [min(run[0][i] for run in runs) * 1e3 for i in range(4)]
    prepared = runs[0][1]
    print(f"{width}x{height:<8} {best[0] / (width * height / 1e6):8.1f}        "
          + "  ".join(f"{x / prepared:6.1f}" for x in best[1:]))
