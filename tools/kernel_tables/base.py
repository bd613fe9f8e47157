"""Data-sheet figures, bounds, published tables, interpolation as the cost model does it, CSV files."""
import csv
import io
import math
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Part -> folder of the published tables. The H20's figures are its relative's with 141 GB at 4.8 TB/s, carried over.
SYSTEMS = {"h200": "h200_sxm", "h100": "h100_sxm", "l40s": "l40s", "h20": "h20_3e"}
RELATIVE_BANDWIDTH = {"h20": 4.8e12}  # of the part that was timed (../shared/data/aiconfigurator/h20_3e.yaml)
M_KNOTS = [1, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 3584, 4096,
           8192, 16384, 32768]
BYTES = {"bf16": 2, "fp8-tensor": 1, "fp8-channel": 1, "fp8-block": 1, "mxfp4": 17 / 32, "w4a16": 9 / 16}  # 4 bits: groups of 32
FOUR_BITS = ("mxfp4", "w4a16")  # weights only: activations and products in bf16


def figures(part):
    with open(f"{ROOT}/hardware_profiles/{part}.yaml", encoding="utf-8") as f:
        text = f.read()
    scale = {"TFLOP/s": 1e12, "TB/s": 1e12, "GB/s": 1e9, "MB": 1e6, "MiB": 1 << 20}

    def figure(key):
        found = re.search(rf"^\s*{key}: {{value: ([\d.]+), unit: (\S+),", text, re.M)
        return float(found.group(1)) * scale[found.group(2)] if found else 0.0

    links = text.split("\nlinks:")[1] if "\nlinks:" in text else ""
    link = re.search(r"bandwidth: {value: ([\d.]+), unit: (\S+),", links)
    return {"bf16": figure("bf16"), "fp8": figure("fp8"), "bandwidth": figure("memory_bandwidth"), "l2": figure("l2"),
            "link": float(link.group(1)) * scale[link.group(2)] if link else 0.0}


def kernel_floor(part):
    """Microseconds of a dependent kernel in a graph."""
    with open(f"{ROOT}/hardware_profiles/{part}.yaml", encoding="utf-8") as f:
        return float(re.search(r"^kernel_floor: {value: ([\d.]+), unit: us,", f.read(), re.M).group(1))


def timed_part(name):
    """Figures of the part that was timed for this one's tables: itself, or its relative."""
    part = figures(name)
    return {**part, "bandwidth": RELATIVE_BANDWIDTH.get(name, part["bandwidth"])}


def carried(us, bound, source_bound):
    """As KernelSetReader::carried: what a kernel takes beyond its bound stays, the bound is this part's."""
    return us if bound == source_bound else max(us + bound - source_bound, bound)


class Published:
    """Tables of one part; a table is read once."""

    def __init__(self, folder, system):
        self.folder = os.path.join(folder, system)
        self.known = {}

    def rows(self, op, name):
        path = os.path.join(self.folder, op, name + ".csv.zst")
        if path not in self.known:
            self.known[path] = []
            if os.path.exists(path):
                text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout.decode()
                self.known[path] = list(csv.DictReader(io.StringIO(text)))
        return self.known[path]


# ---- bounds, as costmodel/kernel_set.cpp has them ---------------------------------------------------------------

def gemm_bound_us(part, fmt, m, n, k):
    rate = part["bf16"] if fmt == "bf16" else part["fp8"]
    data = n * k * BYTES[fmt] + m * k * BYTES[fmt] + m * n * 2
    return max(2 * m * n * k / rate, data / part["bandwidth"]) * 1e6


def attention_bound_us(part, phase, key, batch, length):
    heads, kv, d, window, kv_dtype, _ = key
    element = 1 if kv_dtype == "fp8" else 2
    if phase == "decode":
        keys = min(length, window) if window else length
        data = 2 * batch * keys * kv * d * element + 4 * batch * heads * d
        return data / part["bandwidth"] * 1e6
    growing = min(length, window) if window else length
    pairs = batch * (growing * (growing + 1) / 2 + (length - growing) * window)
    data = batch * length * d * (4 * heads + 2 * kv * 2)
    rate = part["fp8" if kv_dtype == "fp8" else "bf16"]  # with FP8 keys some kernels multiply in FP8
    return max(4 * d * heads * pairs / rate, data / part["bandwidth"]) * 1e6


def experts_bound_us(part, fmt, hidden, inner, experts, per_token, tokens):
    wide = fmt == "bf16" or fmt in FOUR_BITS
    rows, distinct = tokens * per_token, min(experts, tokens * per_token)
    data = distinct * 3 * hidden * inner * BYTES[fmt] + rows * (hidden + inner) * (2 if wide else 1) + rows * (hidden + inner) * 2
    rate = part["bf16"] if wide else part["fp8"]
    return max(6 * rows * hidden * inner / rate, data / part["bandwidth"]) * 1e6


# ---- interpolation, as costmodel/utilisation.cpp does it ---------------------------------------------------------

def log_interpolate(points, x):
    """points: ascending (x, y); power law between, flat beyond."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1:
            w = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0))
            return math.exp((1 - w) * math.log(y0) + w * math.log(y1))
    return points[-1][1]


def smooth(points, x):
    """As log_interpolate on a monotone cubic (UtilisationCurve::smooth_log)."""
    if len(points) < 3 or x <= points[0][0] or x >= points[-1][0]:
        return log_interpolate(points, x)
    i = max(j for j in range(len(points) - 1) if points[j][0] <= x)
    near = [(math.log(a), math.log(b)) for a, b in points[max(0, i - 1):i + 3]]
    k = min(i, 1)

    def secant(j):
        return (near[j + 1][1] - near[j][1]) / (near[j + 1][0] - near[j][0])

    def slope(j):
        if j == 0 or j == len(near) - 1:
            return secant(max(0, j - 1))
        before, after = secant(j - 1), secant(j)
        if before * after <= 0:
            return 0.0
        left, right = near[j][0] - near[j - 1][0], near[j + 1][0] - near[j][0]
        return 3 * (left + right) / ((2 * right + left) / before + (right + 2 * left) / after)

    width = near[k + 1][0] - near[k][0]
    t = (math.log(x) - near[k][0]) / width
    return math.exp((2 * t**3 - 3 * t**2 + 1) * near[k][1] + (3 * t**2 - 2 * t**3) * near[k + 1][1] +
                    width * ((t**3 - 2 * t**2 + t) * slope(k) + (t**3 - t**2) * slope(k + 1)))


def neighbour_weights(points, query):
    low = [min(p[a] for p in points) for a in (0, 1)]
    high = [max(p[a] for p in points) for a in (0, 1)]
    q = [min(max(query[a], low[a]), high[a]) for a in (0, 1)]
    near = sorted(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2, i) for i, p in enumerate(points))[:8]
    if near[0][0] < 1e-18:
        return [(near[0][1], 1.0)]
    weight = [1 / (d * math.sqrt(d)) for d, _ in near]
    rows = [[1, points[i][0] - q[0], points[i][1] - q[1]] for _, i in near]
    a = [[sum(w * r[x] * r[y] for w, r in zip(weight, rows)) for y in range(3)] for x in range(3)]
    a[1][1] += 0.01 * sum(weight)
    a[2][2] += 0.01 * sum(weight)
    b = [1.0, 0.0, 0.0]
    for i in range(3):
        for row in range(i + 1, 3):
            f = a[row][i] / a[i][i]
            for c in range(i, 3):
                a[row][c] -= f * a[i][c]
            b[row] -= f * b[i]
    for i in (2, 1, 0):
        b[i] = (b[i] - sum(a[i][c] * b[c] for c in range(i + 1, 3))) / a[i][i]
    return [(i, sum(x * y for x, y in zip(b, r)) * w) for (_, i), r, w in zip(near, rows, weight)]


def weighted(values_and_weights):
    """Mean in the logarithm, never beyond what one of the values is."""
    values = [v for v, _ in values_and_weights]
    mean = math.exp(sum(w * math.log(v) for v, w in values_and_weights))
    return min(max(mean, min(values)), max(values))


def blended(shapes, keys, query, x):
    """shapes: {(a, b): [(x, utilisation)]}; the value of a shape that is not among `keys`."""
    weights = neighbour_weights([(math.log(n), math.log(k)) for n, k in keys],
                                (math.log(query[0]), math.log(query[1])))
    return weighted([(log_interpolate(shapes[keys[i]], x), w) for i, w in weights])


def surface_at(lines, batch, length, phase):
    """lines: {length: [(batch, utilisation)]}, as FittedSurface::at: cubic along sequences, along lengths for prompts."""
    known = sorted(lines)
    if length in lines or not known[0] < length < known[-1]:
        return smooth(lines[min(max(length, known[0]), known[-1])], batch)
    i = max(j for j, n in enumerate(known) if n < length)
    near = known[max(0, i - 1):i + 3] if phase == "prefill" else known[i:i + 2]
    curve = [(n, smooth(lines[n], batch)) for n in near]
    return smooth(curve, length) if phase == "prefill" else log_interpolate(curve, length)


# ---- files -------------------------------------------------------------------------------------------------------

THIN = 0.01  # a point that the others give back this well is not written


def thinned(points, interpolate=log_interpolate):
    """Without the points that those kept give back within THIN, tried in ascending order."""
    kept = list(points)
    for point in points[1:-1]:
        rest = [p for p in kept if p is not point]
        if all(abs(math.log(interpolate(rest, x) / y)) <= THIN for x, y in points):
            kept = rest
    return kept


def write(folder, name, header, rows):
    with open(os.path.join(folder, name), "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(header)
        w.writerows(rows)


def cells(points, axis):
    known = dict(points)
    return [f"{known[x]:.4g}" if x in known else "" for x in axis]
