"""Line charts as SVG text, without dependencies: the figures of a report that one wants to see."""
import math

ACROSS, HEIGHT, LEFT, TOP, BOTTOM = 456, 360, 64, 40, 48
LEGEND, LETTER = 50, 7  # beside the longest name, and what a letter of 12 px takes at most on average
COLOURS = ["#0b62a3", "#d1495b", "#3a7d44", "#8f5d9f", "#c77d0a", "#4d4d4d", "#00868b", "#9a031e"]


def ticks(low, high, count=6):
    """Round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def escaped(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(value):
    return f"{value:,.10g}"


def line_chart(title, x_name, y_name, series, log_x=False, steps=False):
    """`series`: {name: [(x, y), …]}; y starts at 0. `steps`: a value holds until the next one."""
    points = [p for line in series.values() for p in line]
    scale = math.log10 if log_x else float
    x_low, x_high = min(scale(x) for x, _ in points), max(scale(x) for x, _ in points)
    x_high += 1 if x_high == x_low else 0
    y_high = max(y for _, y in points) * 1.05 or 1
    across, down = ACROSS, HEIGHT - TOP - BOTTOM
    edge = LEFT + across  # of the lines; the names stand right of it
    width = edge + max(150, LEGEND + LETTER * max(len(str(name)) for name in series))
    place_x = lambda x: LEFT + (scale(x) - x_low) / (x_high - x_low) * across   # noqa: E731
    place_y = lambda y: TOP + down * (1 - y / y_high)                           # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" '
           f'font-size="12">', f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">{escaped(title)}</text>']
    for y in ticks(0, y_high):
        at = place_y(y)
        out += [f'<line x1="{LEFT}" x2="{edge}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>',
                f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label(y)}</text>']
    shown = sorted({x for x, _ in points}) if log_x else ticks(x_low, x_high)
    for x in shown:
        out.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label(x)}</text>')
    out += [f'<text x="{LEFT + across / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escaped(x_name)}</text>',
            f'<text x="14" y="{TOP + down / 2}" text-anchor="middle" '
            f'transform="rotate(-90 14 {TOP + down / 2})">{escaped(y_name)}</text>']
    for i, (name, line) in enumerate(series.items()):
        colour, path, before = COLOURS[i % len(COLOURS)], [], None
        for x, y in line:
            if steps and before is not None:
                path.append(f"{place_x(x):.1f},{place_y(before):.1f}")
            path.append(f"{place_x(x):.1f},{place_y(y):.1f}")
            before = y
        out.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if not steps:
            out += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in line]
        at = TOP + 8 + 18 * i
        out += [f'<line x1="{edge + 12}" x2="{edge + 32}" y1="{at}" y2="{at}" stroke="{colour}" '
                f'stroke-width="3"/>', f'<text x="{edge + 38}" y="{at + 4}">{escaped(name)}</text>']
    return "\n".join(out + ["</svg>"]) + "\n"
