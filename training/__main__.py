"""``python -m training keypoints``: every step of the training, one after another or alone."""

from __future__ import annotations

import argparse

from rich.console import Console

from training import keypoints as keypoint_fit
from training.shapes import first_template, shapes_of
from training.tracks import data_folder, read_clips

console = Console()


def fit_keypoints(_: argparse.Namespace) -> None:
    """Fit and write ``engines/weights/embedded/keypoints.npz``; prints what it explains."""
    clips = [clip for clip in read_clips(data_folder()) if clip.split != "held_out"]
    template, mirror = first_template([clip for clip in clips if clip.split == "train"])
    shapes = shapes_of(clips, template)
    train = [shape for shape in shapes if shape.clip.split == "train"]
    tables = keypoint_fit.fit(train, template, mirror)
    for line in keypoint_fit.describe(tables):
        console.print(line)
    console.print("train", keypoint_fit.explained(tables, train))
    console.print("val", keypoint_fit.explained(tables, [s for s in shapes if s.clip.split == "val"]))
    path = keypoint_fit.WEIGHTS / "keypoints.npz"
    tables.save(path)
    console.print(f"wrote {path.name}, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    steps = parser.add_subparsers(required=True)
    steps.add_parser("keypoints", help="learn the 21 keypoints").set_defaults(run=fit_keypoints)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
