# SPDX-License-Identifier: MIT
"""Report -> where everything stands in its two drawings, in pixels: the tree of promises, the boots on one clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rofs.verify.findings import Report, boot_name, one_line
from rofs.verify.report_tree import KINDS, Row, tree_rows
from rofs.verify.request import BootRecord
from rofs.verify.timeline import PHASES, Moment, Phase, read_phases, read_timeline

CHARACTER = 7.9
"""What one takes in the drawings' font, measured wide."""
ROW, STEP, LEFT = 26, 24, 16
LABEL, BAR = 216, 700
TICKS = 6
LONGEST_NAME = 48
_NICE = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class Node:
    """A row of the tree: the mark's middle, the branch from its parent, and where its words stand."""

    row: Row
    x: float
    y: float
    branch: str
    label: str


@dataclass(frozen=True, slots=True)
class Tree:
    """`kinds` are those in the drawing, for its legend."""

    nodes: tuple[Node, ...]
    kinds: dict[str, str]
    words_x: float
    width: float
    height: float


def draw_tree(report: Report) -> Tree:
    """One line a path, the words of all in one column."""
    rows = tree_rows(report.layout, report.broken)
    nodes: list[Node] = []
    for number, row in enumerate(rows):
        x, y = LEFT + row.depth * STEP, ROW * (number + 0.5) + 4
        above = nodes[row.parent] if row.parent is not None else None
        branch = f"M{above.x} {above.y + 8}V{y}H{x - 9}" if above else ""
        nodes.append(Node(row, x, y, branch, one_line(row.name, LONGEST_NAME)))
    words_x = max(n.x + 16 + len(n.label) * CHARACTER for n in nodes) + 20
    longest = max(len(_tree_words(n.row)) for n in nodes)
    kinds = {kind: words for kind, words in KINDS.items() if any(r.kind == kind for r in rows)}
    return Tree(tuple(nodes), kinds, words_x, words_x + longest * CHARACTER + 12, len(rows) * ROW + 8)


def _tree_words(row: Row) -> str:
    return f"{row.kind}  {row.words}  {row.key}" + (f"  {row.broken} broken" if row.broken else "")


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase drawn; `kind` is its first name, `label` what fits in."""

    kind: str
    x: float
    width: float
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One boot: its bars end at `ends`."""

    name: str
    y: float
    bars: tuple[Bar, ...]
    ends: float
    seconds: str
    moments: tuple[Moment, ...]
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """`ticks` are on the common axis, `kinds` the phases in the drawing."""

    rows: tuple[TimeRow, ...]
    ticks: tuple[tuple[float, str], ...]
    kinds: tuple[str, ...]
    width: float
    height: float


def draw_times(report: Report) -> Times:
    """One line a boot, all from the same second on."""
    boots = report.session.boots
    longest = max((b.result.seconds for b in boots), default=0.0) or 1.0
    scale = BAR / longest
    rows = tuple(_time_row(report, record, number, scale) for number, record in enumerate(boots))
    step = next((s for s in _NICE if longest / s <= TICKS), _NICE[-1])
    ticks = tuple((LABEL + second * scale, f"{second} s") for second in range(0, int(longest) + 1, step))
    kinds = tuple(k for k in PHASES if any(bar.kind == k for row in rows for bar in row.bars))
    return Times(rows, ticks, kinds, LABEL + BAR + 80, len(rows) * ROW + 26)


def _time_row(report: Report, record: BootRecord, number: int, scale: float) -> TimeRow:
    phases = read_phases(record, report.profile.init)
    bars = tuple(_bars(phases, scale))
    seconds = record.result.seconds
    y, end = number * ROW + 4, LABEL + seconds * scale
    return TimeRow(boot_name(record), y, bars, end, f"{seconds:.1f} s", read_timeline(record), phases)


def _bars(phases: Sequence[Phase], scale: float) -> Iterator[Bar]:
    for phase in phases:
        width = phase.seconds * scale
        label = phase.name if len(phase.name) * CHARACTER + 8 <= width else ""
        title = f"{phase.name}: {phase.seconds:.1f} s"
        yield Bar(phase.name.split(",")[0], LABEL + phase.begins * scale, width, label, title)
