#!/usr/bin/env python3
"""What counted experts look like as laws: the figures of docs/experts.md.

usage: tools/expert_popularity.py COUNTS.csv TOP_K     (columns layer, expert, count and, for several topics, task)

Counts are shares of tokens that chose an expert among k; weights are those of a choice one after the other,
-log(1 - share) to first order. Exponent (zipf) and concentration (dirichlet) are those whose sum of squared
weights is the counted one; per layer, printed as least, median and largest over the layers of a topic.
"""
import collections
import csv
import itertools
import math
import statistics
import sys


def weights(counts, k):
    total = sum(counts)
    w = [-math.log1p(-min(0.995, max(0.5, c) / total * k)) for c in counts]
    return [x / sum(w) for x in w]


def concentration(w):
    squares = sum(x * x for x in w)
    return (1 - squares) / (squares * len(w) - 1)  # E sum p^2 = (a + 1) / (n a + 1)


def exponent(w):
    squares = sum(x * x for x in w)
    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        z = [(i + 1) ** -middle for i in range(len(w))]
        if sum(x * x for x in z) / sum(z) ** 2 < squares:
            low = middle
        else:
            high = middle
    return low


def rank_imbalance(counts, ranks):
    held = len(counts) // ranks
    return max(sum(counts[r * held:(r + 1) * held]) for r in range(ranks)) / (sum(counts) / ranks)


def scores(counts):
    order = sorted(range(len(counts)), key=counts.__getitem__)
    z = [0.0] * len(counts)
    for place, expert in enumerate(order):
        z[expert] = statistics.NormalDist().inv_cdf((place + 0.5) / len(counts))
    return z


def correlation(x, y):
    return sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    k = int(sys.argv[2])
    topics = collections.defaultdict(lambda: collections.defaultdict(dict))
    with open(sys.argv[1], newline="") as file:
        for row in csv.DictReader(file):
            topics[row.get("task", "")][int(row["layer"])][int(row["expert"])] = int(row["count"])
    rows = {t: [[by[e] for e in sorted(by)] for _, by in sorted(layers.items())] for t, layers in topics.items()}
    for topic, layers in rows.items():
        def spread(figure):
            values = [figure(layer) for layer in layers]
            return f"{min(values):.2f} {statistics.median(values):.2f} {max(values):.2f}"
        print(topic or "all", "| zipf", spread(lambda c: exponent(weights(c, k))),
              "| dirichlet", spread(lambda c: concentration(weights(c, k))),
              "| expert max/mean", spread(lambda c: max(c) / statistics.mean(c)),
              *(f"| EP{r} max/mean {spread(lambda c, r=r: rank_imbalance(c, r))}" for r in (8, 16)
                if len(layers[0]) % r == 0))
    neighbours = [correlation(scores(a), scores(b)) for layers in rows.values() for a, b in zip(layers, layers[1:])]
    if neighbours:
        print(f"correlation of neighbouring layers {statistics.mean(neighbours):.3f}")
    between = [correlation(scores(a), scores(b)) for s, t in itertools.combinations(rows, 2)
               for a, b in zip(rows[s], rows[t])]
    if between:
        print(f"correlation of topics {statistics.mean(between):.3f}")


if __name__ == "__main__":
    main()
