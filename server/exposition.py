"""The figures of several servers as one page for Prometheus (its text format, version 0.0.4)."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merged(pages: Mapping[str, str]) -> str:
    """Pages by worker -> one page, every sample with its `worker` as a label, every metric described once."""
    described: dict[str, tuple[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        for family in text_string_to_metric_families(page):
            described.setdefault(family.name, (family.documentation, family.type))
            lines = samples.setdefault(family.name, [])
            for sample in family.samples:
                labels = ",".join(
                    f'{key}="{_escaped(value)}"' for key, value in {"worker": worker, **sample.labels}.items()
                )
                lines.append(f"{sample.name}{{{labels}}} {sample.value}")
    parts = []
    for name, (text, kind) in described.items():
        full = f"{name}_total" if kind == "counter" else name
        text = text.replace("\\", r"\\").replace("\n", r"\n")
        parts += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *samples[name]]
    return "\n".join([*parts, ""])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
