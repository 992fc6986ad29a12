"""Pictures beside the card: loss curves, and lip curves over the waveform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from engines.types import FPS, FloatArray
from training.corpus import MEASURES

INK, OURS, GREY = "#333333", "#c8553d", "#9aa5b1"


def plot_training(history: list[dict[str, Any]], chosen: int, path: Path) -> None:
    """Training loss and validation correlation over the steps."""
    steps = [entry["step"] for entry in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), constrained_layout=True)
    for key, label in (("loss", "whole"), ("v", "v-prediction"), ("lips", "lips"), ("velocity", "lip velocity")):
        left.plot(steps, [entry[key] for entry in history], label=label)
    left.set(title="training loss", xlabel="step", ylim=(0, None))
    for key, label in (
        ("clips.mean", "natural clips"),
        ("lrcar.mean", "unseen presenters"),
        ("grid_s1.mean", "studio"),
    ):
        if key in history[0]:
            right.plot(steps, [entry[key] for entry in history], label=label)
    right.axvline(chosen, color=GREY, linestyle=":")
    right.set(title="validation: mean lip correlation, streaming", xlabel="step", ylim=(0, None))
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def plot_lips(curves: list[tuple[str, FloatArray, FloatArray, FloatArray]], path: Path) -> None:
    """Opening and width, tracked and generated, over the waveform; (name, sound, truth, ours) per clip."""
    figure, axes = plt.subplots(len(curves), 2, figsize=(11, 1.7 * len(curves)), constrained_layout=True, squeeze=False)
    for row, (name, sound, truth, ours) in zip(axes, curves, strict=True):
        time = np.arange(len(truth)) / FPS
        for axis, k in zip(row, (0, 1), strict=True):
            wave = sound[::40]
            axis.fill_between(np.arange(len(wave)) / 400, 0.06 * wave / max(np.abs(wave).max(), 1e-3), color="#e8ebee")
            axis.plot(time, truth[:, k] - truth[:, k].mean(), color=INK, linewidth=1, label="tracked")
            axis.plot(time, ours[:, k] - ours[:, k].mean(), color=OURS, linewidth=1, label="generated")
            axis.set_title(f"{name}: {MEASURES[k]}", fontsize=8, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=7)
    axes[0][0].legend(frameon=False, fontsize=7, loc="upper right")
    figure.savefig(path, dpi=70)
    plt.close(figure)
