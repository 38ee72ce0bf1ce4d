"""A line chart as SVG text, drawn without a script: for pages, in their colours, and alone, with colours of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 14, 40
STYLES = 8
LOOKS = """<style>
svg { font: 11px system-ui, sans-serif; color-scheme: light dark } text { fill: #6b6f76 } .grid { stroke: #8883 } .axis { stroke: #888 }
.line { fill: none; stroke: currentColor; stroke-width: 2 } .band { stroke: currentColor; opacity: .45 }
.chance { stroke: #888; stroke-dasharray: 3 3 }
.s0 { color: #0f77b8 } .s1 { color: #d4631f } .s2 { color: #0f8a63 } .s3 { color: #b5578f }
.s4 { color: #ad7a00 } .s5 { color: #4b9ccf } .s6 { color: #777b82 } .s7 { color: #8a63c4 }
</style>"""
"""For a chart alone: on a page, the page's style sheet says the same."""


@dataclass(frozen=True)
class Line:
    """points: (place on the x axis, value, low, high), the last two the ends of an interval, or None."""

    name: str
    points: Sequence[tuple[float, float, float | None, float | None]]


def chart(
    lines: Sequence[Line], ticks: Sequence[tuple[float, str]], x_name: str, y_name: str, chance: float | None = None, alone: bool = False
) -> str:
    """Values from 0 to 1 against places on the x axis, which `ticks` name; a line for each series, its name at its end."""
    first, last = ticks[0][0], max(ticks[-1][0], ticks[0][0] + 1e-9)

    def x(place: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (place - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value, 1)

    said = "; ".join(f"{line.name}: " + ", ".join(f"{value:.2f}" for _, value, *_ in line.points) for line in lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plotted" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{y_name} against {x_name}. {said}")}">',
        LOOKS if alone else "",
    ]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{value:.0%}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0)}" y2="{y(0)}"/>')
    parts += [f'<text x="{x(place)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>' for place, text in ticks]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    if chance is not None:
        parts.append(f'<line class="chance" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(chance)}" y2="{y(chance)}"/>')
    heights = _apart([y(line.points[-1][1]) for line in lines])
    for number, (line, height) in enumerate(zip(lines, heights, strict=True)):
        path = " ".join(f"{x(place)},{y(value)}" for place, value, *_ in line.points)
        bars = [
            f'<line class="band" x1="{x(place)}" x2="{x(place)}" y1="{y(low)}" y2="{y(high)}"/>'
            for place, _, low, high in line.points
            if low is not None and high is not None
        ]
        dots = [f'<circle cx="{x(place)}" cy="{y(value)}" r="3" fill="currentColor"/>' for place, value, *_ in line.points]
        label = f'<text x="{x(line.points[-1][0]) + 9}" y="{height + 4}">{escape(line.name)}</text>'
        parts += [f'<g class="s{number % STYLES}"><polyline class="line" points="{path}"/>', *bars, *dots, f"{label}</g>"]
    return "".join([*parts, "</svg>"])


def _apart(heights: Sequence[float], room: float = 13.0) -> list[float]:
    """Heights of names, moved so that none stands on another, from the top down."""
    placed: dict[int, float] = {}
    lowest = -room
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        lowest = max(heights[index], lowest + room)
        placed[index] = lowest
    return [placed[index] for index in range(len(heights))]
