"""Draws how the time of a search grows with the gallery, from the tables of `cargo bench --bench search`.

    for rows in 10000 100000 1000000; do cargo bench --bench search -- $rows 512; done | tee growth.txt
    python3 scripts/plot_growth.py growth.txt > benches/search-growth.svg

Standard library only.
"""
import math
import re
import sys

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 400, 60, 50
COLOURS = {1: "#1b6ca8", 8: "#2e8b57", 32: "#c0392b"}


def read(path):
    """(queries, threads) -> [(rows, milliseconds, floor)]"""
    rows, series = 0, {}
    for line in open(path):
        if found := re.match(r"(\d+) rows of", line):
            rows = int(found.group(1))
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows and len(cells) == 7 and cells[0].isdigit():
            series.setdefault((int(cells[2]), int(cells[0])), []).append((rows, float(cells[3]), float(cells[1])))
    return series


def main():
    series = {key: points for key, points in read(sys.argv[1]).items() if key[1] == 2}
    rows = [row for points in series.values() for row, _, _ in points]
    times = [value for points in series.values() for _, time, floor in points for value in (time, floor)]
    low = (math.floor(math.log10(min(rows))), math.floor(math.log10(min(times))))
    high = (math.ceil(math.log10(max(rows))), math.ceil(math.log10(max(times))))

    def x(value):
        return LEFT + (math.log10(value) - low[0]) / (high[0] - low[0]) * (WIDTH - LEFT - 120)

    def y(value):
        return HEIGHT - BOTTOM - (math.log10(value) - low[1]) / (high[1] - low[1]) * (HEIGHT - BOTTOM - 20)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">']
    out.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    for power in range(low[0], high[0] + 1):
        out.append(f'<text x="{x(10**power):.0f}" y="{HEIGHT - 30}" text-anchor="middle">{10**power:,}</text>')
    for power in range(low[1], high[1] + 1):
        at = y(10**power)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 120}" y1="{at:.0f}" y2="{at:.0f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.0f}" text-anchor="end">{10**power:g}</text>')
    out.append(f'<text x="{(WIDTH - 60) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">subjects in the gallery</text>')
    out.append(f'<text x="6" y="14">milliseconds, 2 threads</text>')
    for (queries, _), points in sorted(series.items()):
        path = " ".join(f"{x(row):.1f},{y(time):.1f}" for row, time, _ in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[queries]}" stroke-width="2"/>')
        label = "1 query" if queries == 1 else f"{queries} queries"
        last = points[-1]
        out.append(f'<text x="{x(last[0]) + 6:.0f}" y="{y(last[1]) + 4:.0f}" fill="{COLOURS[queries]}">{label}</text>')
    floor = sorted((row, floor) for row, _, floor in series[min(series)])
    path = " ".join(f"{x(row):.1f},{y(value):.1f}" for row, value in floor)
    out.append(f'<polyline points="{path}" fill="none" stroke="#888" stroke-dasharray="4 3"/>')
    out.append(f'<text x="{x(floor[-1][0]) + 6:.0f}" y="{y(floor[-1][1]) + 16:.0f}" fill="#888">reading the rows</text>')
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
