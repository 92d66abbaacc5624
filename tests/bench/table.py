"""Medians of all rounds for each tool, and how the first tool compares: its median divided by that of the other."""

import statistics
import sys

rows = {}
with open(sys.argv[1]) as file:
    for line in file:
        tool, step, value = line.split()
        rows.setdefault(step, {}).setdefault(tool, []).append(float(value))
tools = sys.argv[2:]
width = max([len(step) for step in rows] + [4]) + 2
heads = [f"/{tool}" for tool in tools[1:]]
print(f"{'step':{width}}" + "".join(f"{tool:>13}" for tool in tools) + "  |" + "".join(f"{head:>{max(len(head), 6) + 3}}" for head in heads))
for step, values in rows.items():
    medians = [statistics.median(values[tool]) if tool in values else None for tool in tools]
    line = f"{step:{width}}" + "".join(f"{'-' if median is None else format(median, '.4g'):>13}" for median in medians)
    ratios = ""
    for head, median in zip(heads, medians[1:]):
        ratio = "-" if median in (None, 0) or medians[0] is None else f"{medians[0] / median:.3f}"
        ratios += f"{ratio:>{max(len(head), 6) + 3}}"
    print(f"{line}  |{ratios}")
