"""Prometheus's text format 0.0.4, read as strictly as its grammar: what Prometheus, promtool and
node_exporter would refuse is refused here."""

from __future__ import annotations

import re

Labels = frozenset[tuple[str, str]]

_COMMENT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (-?[0-9][0-9.e+-]*)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> dict[str, dict[Labels, float]]:
    """The samples of each gauge by their labels. Raises ValueError for what the format forbids."""
    if text and not text.endswith("\n"):
        raise ValueError("the last line has no end")
    gauges: dict[str, dict[Labels, float]] = {}
    current = ""
    seen_help = ""
    for line in text.split("\n")[:-1]:
        comment = _COMMENT.fullmatch(line)
        if comment and comment[1] == "HELP":
            seen_help = comment[2]
        elif comment:
            current = comment[2]
            if current != seen_help or current in gauges or comment[3] != "gauge":
                raise ValueError(f"not the one TYPE after its HELP: {line}")
            gauges[current] = {}
        else:
            name, labels, value = _sample(line)
            if name != current:
                raise ValueError(f"not among the samples of its metric: {line}")
            if labels in gauges[name]:
                raise ValueError(f"twice: {line}")
            gauges[name][labels] = value
    return gauges


def _sample(line: str) -> tuple[str, Labels, float]:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"no sample: {line}")
    labels: dict[str, str] = {}
    end = 0
    for label in _LABEL.finditer(match[2]):
        if label.start() != end or label[1] in labels:
            break
        labels[label[1]] = re.sub(r"\\.", lambda escape: _ESCAPES[escape.group()], label[2])
        end = label.end()
    if end != len(match[2]):
        raise ValueError(f"labels: {line}")
    return match[1], frozenset(labels.items()), float(match[3])
