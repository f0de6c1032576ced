"""Draws how the time of a search grows with the gallery, from the table of the measurements ("2 threads") in RESULTS.md.

    python3 scripts/plot_growth.py benches/RESULTS.md > benches/search-growth.svg

Standard library only.
"""
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 62, 500, 66, 338
HEADING = "2 threads ([plot](search-growth.svg)):"
LABELS = {"floor": "reading the rows", "one": "1 query", "eight": "8 queries", "many": "32 queries"}
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2933 }
.soft { fill: #556170 }
.title { font-weight: 600 }
.paper { fill: #ffffff }
.grid { stroke: #dde2e9; stroke-width: 1 }
.line { fill: none; stroke-width: 2.5 }
.one { stroke: #1b6ca8 } .one-dot { fill: #1b6ca8 }
.eight { stroke: #2c8256 } .eight-dot { fill: #2c8256 }
.many { stroke: #b8442f } .many-dot { fill: #b8442f }
.floor { stroke: #77828f; stroke-dasharray: 6 4; stroke-width: 2 } .floor-dot { fill: #77828f }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee }
.soft { fill: #a7b1be }
.paper { fill: #161b22 }
.grid { stroke: #303843 }
.one { stroke: #6cb6ff } .one-dot { fill: #6cb6ff }
.eight { stroke: #56c28b } .eight-dot { fill: #56c28b }
.many { stroke: #ff8f78 } .many-dot { fill: #ff8f78 }
.floor { stroke: #98a3b0 } .floor-dot { fill: #98a3b0 }
}
"""


def read(path):
    """kind -> [(subjects, milliseconds)]"""
    series = {kind: [] for kind in LABELS}
    lines = iter(open(path, encoding="utf-8"))
    if not any(line.strip() == HEADING for line in lines):
        sys.exit(f"{path} has no table under {HEADING!r}")
    for line in lines:
        cells = [cell.strip().replace(",", "") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0].isdigit():
            for kind, cell in zip(series, cells[1:]):
                series[kind].append((int(cells[0]), float(cell)))
        elif series["floor"]:
            break
    return series


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    series = read(sys.argv[1])
    rows = [row for row, _ in series["floor"]]
    times = [time for points in series.values() for _, time in points]
    low = (math.floor(math.log10(min(rows))), math.floor(math.log10(min(times))))
    high = (math.ceil(math.log10(max(rows))), math.ceil(math.log10(max(times))))

    def x(value):
        return LEFT + (math.log10(value) - low[0]) / (high[0] - low[0]) * (RIGHT - LEFT)

    def y(value):
        return BOTTOM - (math.log10(value) - low[1]) / (high[1] - low[1]) * (BOTTOM - TOP)

    last = "; ".join(f"{LABELS[kind]} {points[-1][1]:g} ms" for kind, points in series.items())
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>The time of an exact search in memory, by the number of subjects</title>",
        f"<desc>Two threads, both axes logarithmic. With {max(rows):,} subjects: {last}.</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="26">Time of an exact search in memory</text>',
        f'<text class="soft" x="{LEFT}" y="45">milliseconds on 2 threads, for queries that are answered together</text>',
    ]
    for power in range(low[1], high[1] + 1):
        at = y(10**power)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="soft" x="{LEFT - 8}" y="{at + 4.5:.1f}" text-anchor="end">{10**power:g}</text>')
    for power in range(low[0], high[0] + 1):
        out.append(f'<text class="soft" x="{x(10**power):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{10**power:,}</text>')
    out.append(f'<text class="soft" x="{(LEFT + RIGHT) / 2:.0f}" y="{BOTTOM + 42}" text-anchor="middle">subjects in the gallery</text>')
    below = math.inf  # of the label before
    for kind, points in sorted(series.items(), key=lambda item: item[1][-1][1]):
        places = [(x(row), y(time)) for row, time in points]
        out.append(f'<polyline class="line {kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>')
        out.extend(f'<circle class="{kind}-dot" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in places)
        end = min(places[-1][1] + (10 if kind == "floor" else 0), below - 17)
        out.append(f'<text x="{RIGHT + 11}" y="{end + 4.5:.1f}">{LABELS[kind]}</text>')
        below = end
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
