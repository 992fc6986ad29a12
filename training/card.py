"""The model card, written from the index, the checkpoint and the measured figures, never by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from engines.types import FPS, KDTalkerError
from training.corpus import MEASURES
from training.life_metrics import life_lines
from training.tracks import held_out_names, read_index

NETWORKS = ("audio_encoder.onnx", "window.onnx", "brief.onnx")
FILES = ("keypoints.npz", *NETWORKS, "voice.npz", "contact.npz", "life.npz", "emotions.npz")
SYSTEMS = ("ours", "regression", "one step", "loudness", "shuffled", "tracker")
AIMS = {"opening": ".54", "width": ".40", "jaw": ".42", "velocity": ".32"}
NEEDED = ("lips", "closing", "bilabials", "robustness", "rendered", "seams", "life", "keypoints")
TRACKED = ("threshold", "studio, tracked")
INTRODUCTION = """# Embedded motion model

Speech to facial motion for the `embedded` profile of KDTalker Live: a narrow spatiotemporal denoiser of
KDTalker's family (arXiv 2503.12963) that is sampled in short windows while sound arrives.

| file | what |
|---|---|
| `keypoints.npz` | 21 implicit keypoints: how they move the 478-point face mesh, template, statistics |
| `audio_encoder.onnx` | log-mel window of one frame -> 128 numbers |
| `window.onnx` | one hop of DDIM, both steps, windows of up to 27 frames; a call: 6 committed, 2 new, 1 look-ahead |
| `brief.onnx` | the same in one step, for a machine that falls behind |
| `voice.npz` | whether somebody speaks: a recurrent cell over the same mel windows |
| `contact.npz` | when lips touch: such a cell; and how a mouth closes |
| `life.npz` | head, brows, eyes, nods: a state-space model and renewal processes fitted to the tracks |
| `emotions.npz` | what each emotion adds to the expression |

## Intended use and limits

Animating a portrait with the consent of the person shown, in video calls, assistants and demonstrations.
The files reproduce no sound and no face: they hold network weights, mean shapes and statistics.
Not for passing off synthetic video as a recording.

- Lips follow speech, they do not spell it: correlation with tracked lips is about that of the tables below.
- Trained on English and Arabic, mostly adults in front of a camera. Other languages and a child's voice move the mouth
  and let it close; how right the lips are there was not measured on recordings of them.
- Other people, music or typing that the microphone hears while the speaker is silent can still open the mouth, for a
  tenth to a third of the time.
- Lips are drawn together where p, b or m is heard. An m is seldom missed; p and b are taken for t, k and d at times.
- 120 to 160 ms after the last speech the mouth is at rest, whatever its past, unless what is heard is taken for
  speech: tunes and typing often are.
- Depth (z) of the tracks is a guess of the tracker, so lip protrusion is weak.
- Head, brows and eyes follow loudness and stress only; gestures do not follow meaning. Tracked heads move before
  the syllable they stress, ours after it.
- When a listener nods comes from the literature, only the shape of nods from the tracks: nobody listens in them.
- Head motion was fitted to under three minutes of 14 clips.
"""

DATA_NOTE = """
GRID audiovisual sentence corpus: M. Cooke, J. Barker, S. Cunningham, X. Shao, "An audio-visual corpus for
speech perception and automatic speech recognition", J. Acoust. Soc. Am. 120 (2006), CC BY 4.0. Used here:
face-mesh tracks of its videos and its sound, both as training material only.
All tracks: MediaPipe face mesh 0.10.21. Footage and sound of third parties served for training and are not
part of this repository. "held out" clips were named in `training/held_out.json` before the first training
and took no part in training; "val" clips were for choosing. Thresholds of the voice network and what was tried without
success were checked on the held-out clips too (docs/sampler.md), so their figures are not blind.
"""


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def data_table(root: Path) -> list[str]:
    """One line per training item with source and licence."""
    lines = [_line(("item", "split", "minutes", "source", "licence")), "|---|---|---|---|---|"]
    held_out = held_out_names()
    for dataset in read_index(root)["datasets"]:
        if dataset["id"] == "clips":
            for entry in dataset["files"]:
                name = Path(entry["file"]).name
                split = "held out" if name in held_out else entry["split"]
                minutes = f"{entry['frames'] / FPS / 60:.2f}"
                lines.append(_line((name, split, minutes, entry["source"], entry["licence"])))
            continue
        for split in ("train", "val"):
            frames = sum(entry["frames"] for entry in dataset["files"] if entry["split"] == split)
            people = f"{dataset['id']} ({dataset['identities']})"
            lines.append(_line((people, split, f"{frames / FPS / 60:.1f}", dataset["source"], dataset["licence"])))
    return lines


def lip_table(lips: dict[str, Any]) -> list[str]:
    """Correlations and amplitudes per group of clips and per system."""
    head = ("clips", "system", *MEASURES, "velocity", "amplitude o / w / j", "velocity amplitude", "lag")
    lines = [_line(head), "|" + "---|" * len(head)]
    for group, table in lips.items():
        for system in SYSTEMS:
            score = table.get(system)
            if score is None:
                continue
            cells = [f"{score[k]:.2f}" for k in (*MEASURES, "velocity")]
            ours = system == "ours"
            if ours:
                spans = [table.get("interval", {}).get(k) for k in (*MEASURES, "velocity")]
                cells = [
                    f"**{c}**" + (f" ({s[0]:.2f}-{s[1]:.2f})" if s else "") for c, s in zip(cells, spans, strict=True)
                ]
            amplitude = " / ".join(f"{score[f'{k} amplitude']:.2f}" for k in MEASURES)
            label = f"{group} ({table['clips']} clips, {table['seconds']:.0f} s)" if ours else ""
            late = "/".join(map(str, sorted(set(table["lag_frames"])))) if ours else ""
            lines.append(_line((label, system, *cells, amplitude, f"{score['velocity amplitude']:.2f}", late)))
    return lines


def before_and_after(figures: dict[str, Any]) -> list[str]:
    """The model before and this one on the clips that only judge, beside what was aimed at."""
    before, after = figures.get("before"), figures
    if not before:
        return []

    def lips(key: str) -> list[str]:
        return [f"{each['lips']['held out']['ours'][key]:.2f}" for each in (before, after)]

    def closing(kind: str, key: str) -> list[str]:
        return [f"{each['closing'][kind][key]:.2f}" for each in (before, after)]

    def closed(kind: str) -> list[str]:
        shown = [each["bilabials"].get(kind) for each in (before, after)]
        return [
            f"{s['closed']:.2f} (others {s.get('others_closed', s.get('elsewhere')):.2f})" if s else "" for s in shown
        ]

    rows = [(f"correlation, {k}", f">= {aim}", *lips(k)) for k, aim in AIMS.items()]
    rows += [
        (f"amplitude, {k}", ">= .75" if k == "width" else ".85 to 1.15", *lips(f"{k} amplitude")) for k in MEASURES
    ]
    rows.append(("velocity amplitude", ".85 to 1.15", *lips("velocity amplitude")))
    for kind in after["closing"]:
        rows.append((f"opening 200 ms after speech, {kind}", "<= .10", *closing(kind, "at_200_ms")))
        rows.append((f"share of the next 2 s closed, {kind}", "", *closing(kind, "closed")))
    aims = {"studio, ours": ">= .85"}
    rows += [(f"bilabials closed, {k}", aims.get(k, ""), *closed(k)) for k in after["bilabials"] if k not in TRACKED]
    rows += [(f"hop borders, {name}", aim, *seams) for name, aim, seams in _seams(before, after)]
    rows += [(name, aim, "", now) for name, aim, now in _alive(after["life"])]
    return [_line(("held-out clips", "aim", "before", "now")), "|---|---|---|---|", *map(_line, rows), ""]


def _seams(*models: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    aims = {"jump": ".80 to 1.25", "second_difference": ".85 to 1.15"}
    return [
        (name.replace("_", " "), aim, [f"{each['seams'][name]:.2f}" for each in models]) for name, aim in aims.items()
    ]


def _alive(life: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What is aimed at in head, eyes and a long call, and what was measured; of the pose yaw, pitch, roll."""

    def three(values: Iterable[float], digits: int = 2) -> str:
        return " / ".join(f"{value:.{digits}f}" for value in values)

    def against(key: str) -> list[tuple[float, float]]:
        return list(zip(life["heads"]["speech"][key], life["heads"]["people"][key], strict=True))

    beats, borders, hour = life["beats"]["speech"], life["transitions"], life["hour"]
    return [
        (
            "deviation of the pose, of people's",
            ".7 to 1.3",
            three(ours / theirs for ours, theirs in against("deviation")),
        ),
        ("speed of the pose, of people's", ".5 to 1.5", three(ours / theirs for ours, theirs in against("speed"))),
        (
            "correlation after a second, less people's",
            "-.15 to .15",
            three(ours - theirs for ours, theirs in against("after_a_second")),
        ),
        ("blinks a minute while idle", "15 to 20", f"{life['heads']['idle']['blinks_a_minute']:.1f}"),
        ("beat alignment, less with shifted speech", "> 0", f"{beats['score'] - beats['shuffled']:+.3f}"),
        ("speed at transitions, of that in speech", "<= 1.5", f"{borders['median'] / borders['median in speech']:.2f}"),
        ("p99 of it, of people's", "<= 1", f"{borders['p99'] / borders['p99 of people']:.2f}"),
        ("mean pose over an hour, degrees", "-2 to 2", three(hour["mean"])),
        ("spread of the hour's last ten minutes", ".75 to 1.33", three(hour["spread"])),
    ]


def _training(saved: dict[str, Any]) -> list[str]:
    recipe, network = saved["recipe"], saved["recipe"]["network"]
    parameters = sum(tensor.numel() for tensor in saved["state"].values())
    return [
        f"- network: width {network['width']}, {network['layers']} layers, {network['heads']} heads, "
        f"a time for every token; with its audio encoder {parameters / 1e6:.2f} million parameters",
        f"- objective: v-prediction, cosine schedule; lip errors x {recipe['lips']}, lip velocity x "
        f"{recipe['velocity']}; {100 * recipe['deaf']:.0f} % of windows without sound",
        f"- {recipe['steps']} steps of {recipe['frames']} frames, AdamW, peak rate {recipe['rate']}, "
        f"EMA {recipe['ema']}, seed {recipe['seed']}; step {saved['step']} was chosen on the validation clips",
        f"- data mix: {json.dumps(recipe['mix'])}; speed, formants, gain, tilt, telephone band, noise, other voices "
        "and silences varied, faces mirrored",
        "- `contact.npz`: random words of eleven languages spoken by espeak-ng (`training/words.json`), all sounds "
        "known, and the opening of tracked lips in the training clips of all data sets; throat, room, microphone, line "
        "and noise varied",
        "- reproduce: `python -m training all` (tracks in `../shared/data` or `KDTALKER_DATA`; CPU, one thread)",
    ]


def permissive_table(saved: dict[str, Any], other: Path) -> list[str]:
    """Validation figures of the permissively trained variant beside ours after the same number of steps."""
    if not other.is_file():
        return []
    history = {entry["step"]: entry for entry in torch.load(other, weights_only=True)["history"]}
    ours = {entry["step"]: entry for entry in saved["history"]}
    step = max(set(history) & set(ours))
    groups = {"clips": "natural clips", "lrcar": "unseen presenters", "grid_s1": "studio"}
    lines = [
        "",
        "### Permissively licensed items only",
        "",
        "The same network and schedule, trained on the items that `training/permissive.json` allows "
        f"(`python -m training motion --permissive`), {step} steps; keypoints and life model as shipped. Validation "
        "clips, streaming, correlation of opening / width / jaw; this variant is not shipped.",
        "",
        _line(("validation clips", "permissive", f"all data, also at step {step}")),
        "|---|---|---|",
    ]
    for key, name in groups.items():
        cells = [" / ".join(f"{e[f'{key}.{k}']:.2f}" for k in MEASURES) for e in (history[step], ours[step])]
        lines.append(_line((name, *cells)))
    return lines


def write_card(folder: Path, checkpoint: Path, root: Path) -> None:
    """Write ``CARD.md`` beside the weights."""
    figures = json.loads((folder / "figures.json").read_text())
    if missing := [part for part in NEEDED if part not in figures]:
        raise KDTalkerError(f"figures.json lacks {', '.join(missing)}; run kdtalker train evaluate --parts with them.")
    saved = torch.load(checkpoint, weights_only=True)
    parts = [INTRODUCTION, "## Training", *_training(saved), "", "![loss curves](training.png)", ""]
    parts += ["## Figures", "", *results(figures), "", "![lip curves of held-out clips](lips.png)", ""]
    parts += permissive_table(saved, checkpoint.with_name("permissive.pt"))
    parts += ["", "## Data", *DATA_NOTE.splitlines(), "", *data_table(root), "", "## Files", ""]
    parts += [_line(("file", "bytes", "SHA-256")), "|---|---|---|"]
    for name in FILES:
        content = (folder / name).read_bytes()
        parts.append(_line((name, len(content), hashlib.sha256(content).hexdigest())))
    (folder / "CARD.md").write_text("\n".join(parts) + "\n")


def _closing(figures: dict[str, Any]) -> list[str]:
    head = ("what follows speech", "at 200 ms", "95 % of 2 s below", "largest", "share of 2 s within .10")
    keys = ("at_200_ms", "later_95", "later_largest", "closed")
    lines = [_line(head), "|" + "---|" * len(head)]
    return lines + [_line((kind, *(f"{row[key]:.2f}" for key in keys))) for kind, row in figures["closing"].items()]


def _bilabials(figures: dict[str, Any]) -> list[str]:
    table = figures["bilabials"]
    lines = [
        f"Closed means an opening below {table['threshold']:.3f} eye distances, midway between the medians of tracked "
        "bilabials and of other tracked sounds. 'separation': how often a bilabial is the more closed of a pair (area "
        "under the ROC curve). Studio: beginnings of words in unseen sentences of a trained speaker. Natural: moments "
        "at which tracked lips met for at most .2 s; 'others' are all other moments of the same length.",
        "",
        _line(("lips meet on p, b, m", "bilabials", "closed", "others closed", "separation")),
        "|---|---|---|---|---|",
    ]
    for name, row in table.items():
        if name == "threshold":
            continue
        count, others = row.get("bilabials", row.get("moments")), row.get("others_closed", row.get("elsewhere"))
        lines.append(_line((name, count, f"{row['closed']:.2f}", f"{others:.2f}", row.get("separation", ""))))
    return lines


def _robustness(figures: dict[str, Any]) -> list[str]:
    changed, languages = figures["robustness"]["changed sound"], figures["robustness"]["languages"]
    keys = ("opening", "width", "jaw", "opening amplitude", "spoken", "speed", "at_200_ms", "closed")
    lines = [
        "Held-out clips with their sound changed, then other languages; two seconds without a voice follow each. "
        "'spoken', 'speed': mean opening in eye distances and its mean change a second while somebody speaks.",
        "",
        _line(("sound", *MEASURES, "amplitude", "spoken", "speed", "at 200 ms", "share of 2 s closed")),
        "|" + "---|" * (len(keys) + 1),
    ]
    for name, row in (changed | languages).items():
        lines.append(_line((name, *(f"{row[key]:.2f}" if key in row else "" for key in keys))))
    return lines


def _rendered(figures: dict[str, Any]) -> list[str]:
    table = figures["rendered"]
    meaning = {
        "ours": "rendered frames against the true clip",
        "true motion": "the tracked person's own lips, rendered: the ceiling",
        "driving": "rendered frames against the motion that was rendered",
    }
    lines = [
        f"The live pipeline's frames of {table['clips']} held-out clips on {len(table['portraits'])} portraits, lips "
        "tracked in them by MediaPipe:",
        "",
        _line(("rendered video", *MEASURES, "velocity", "amplitude o / w / j", "velocity amplitude")),
        "|---|---|---|---|---|---|---|",
    ]
    for name, text in meaning.items():
        row = table[name]
        amplitude = " / ".join(f"{row[f'{k} amplitude']:.2f}" for k in MEASURES)
        cells = [f"{row[k]:.2f}" for k in (*MEASURES, "velocity")]
        lines.append(_line((text, *cells, amplitude, f"{row['velocity amplitude']:.2f}")))
    return [*lines, "", "![above the tracked person's lips, below ours](frames.jpg)"]


def results(figures: dict[str, Any]) -> list[str]:
    """Everything measured, in words and tables."""
    lines = [
        f"Streaming, hop by hop; means of {figures['training_seeds']} training seeds x {figures['noise_seeds']} noise "
        "seeds, in brackets the 5 to 95 % bootstrap interval over clips. The first training seed is the files above. "
        "Correlation with the tracked lips; amplitude as a share of the tracked one; lag in frames. "
        f"'regression': the same network trained to answer at once, without noise, "
        f"{figures.get('regression_steps', 0)} steps; 'one step': this network asked "
        "so; 'loudness': least squares from loudness; 'shuffled': ours with another clip's sound; 'tracker': the "
        "tracked lips read from two sets of mesh points, the ceiling.",
        "",
        *before_and_after(figures),
        *lip_table(figures["lips"]),
        "",
        "Opening above rest after speech ends, as a share of the mean while speaking. The sounds are made by "
        "`training/noises.py`, which shares nothing with those of training:",
        "",
        *_closing(figures),
        "",
        *_bilabials(figures),
        "",
        *_robustness(figures),
        "",
        *_rendered(figures),
        "",
        f"Hop borders against other frames: jump x {figures['seams']['jump']}, second difference x "
        f"{figures['seams']['second_difference']} (medians).",
        "",
        *life_lines(figures["life"]),
    ]
    explained = figures["keypoints"]
    lines += ["", "What 21 keypoints explain of the mesh's motion within clips (R2):", ""]
    names = list(next(iter(explained.values())))
    lines += [_line(("clips", *names)), "|" + "---|" * (len(names) + 1)]
    lines += [_line((group, *(f"{row[name]:.3f}" for name in names))) for group, row in explained.items()]
    return lines
