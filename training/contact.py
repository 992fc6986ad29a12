"""Fits the network that says when lips touch: on spoken text whose sounds are known, and on tracked lips.

Speech of espeak-ng comes in languages, voices, rates and pitches drawn at random and tells of every p, b and m when it
was said; tracked clips tell how far lips were apart. Both are changed in ways that leave lips alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from engines.audio import BANDS, log_mel, mel_windows
from engines.contact import DELAY, ContactModel
from engines.face_mesh import FaceModel
from engines.motion import EXPRESSION
from engines.types import FPS, KEYPOINTS, SPEECH_RATE, FloatArray
from training import phonemes
from training.batches import COLUMNS_PER_FRAME, WINDOW, amplitude, from_amplitude
from training.corpus import Item, mouth_numbers
from training.recurrent import Listener
from training.sounds import amplitude_bank

WORDS = Path(__file__).with_name("words.json")
TICKS = 50
COLUMNS = int(np.ceil(COLUMNS_PER_FRAME * TICKS)) + WINDOW.columns
COLUMN_SECONDS = 1 / (FPS * COLUMNS_PER_FRAME)
STARTS = np.array([WINDOW.start(frame) - WINDOW.start(0) for frame in range(TICKS)])  # first column of every frame
MIX = {"espeak": 0.5, "grid_s1": 0.1, "lrcar": 0.2, "clips": 0.2}
# First letters of sounds with lips together, with lips near each other, and of what is no sound.
BILABIAL, NEAR, PAUSES = frozenset("pbm"), frozenset("fvwBVFMu"), frozenset("_(")
UNSURE, LONGEST = 0.035, 0.14  # seconds around a closure that nobody knows; of a closure
MISSED = 1.5  # how much worse it is not to hear a closure than to hear one that is none
STRIDE = 2  # frames
OPEN_AT, SURE = 0.030, 0.006  # eye distances: as likely closed as open, and the width of that border


@dataclass(frozen=True, slots=True)
class ContactRecipe:
    """Everything that decides a fit."""

    features: int = 128
    state: int = 96
    steps: int = 2500
    sequences: int = 28
    rate: float = 3e-3
    utterances: int = 1200
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """`sound` f32 (columns, 80): linear mel amplitudes; `touch` f32 (T,): whether lips do; `weight` (T,): how sure."""

    sound: FloatArray
    touch: FloatArray
    weight: FloatArray


def spoken_examples(count: int, seed: int) -> list[Example]:
    """Random words of random languages by random voices of espeak-ng."""
    rng = np.random.default_rng([seed, 0x7A1C])
    words = {voice: text.split() for voice, text in json.loads(WORDS.read_text()).items() if voice != "note"}
    voices = [*["en-us", "en", "en-gb-x-rp", "en-gb-scotland"] * 3, *(voice for voice in words if voice != "en")]
    variants = ["", *(f"+m{k}" for k in range(1, 8)), *(f"+f{k}" for k in range(1, 6))]
    examples = []
    for _ in range(count):
        voice = voices[rng.integers(len(voices))]
        known = words["en" if voice.startswith("en") else voice]
        text = " ".join(rng.choice(known, int(rng.integers(4, 9)))) + "."
        said = phonemes.speak(
            text, voice + variants[rng.integers(len(variants))], int(rng.uniform(110, 230)), int(rng.uniform(15, 85))
        )
        examples.append(_of_speech(said))
    return examples


def _of_speech(said: phonemes.Spoken) -> Example:
    frames = len(said.sound) * FPS // SPEECH_RATE
    times = np.arange(frames) / FPS
    touch, weight = np.zeros(frames, np.float32), np.ones(frames, np.float32)
    for each in said.phonemes:
        if each.name[0] in NEAR:
            weight[(times > each.begin - 0.06) & (times < each.end + 0.05)] = 0
        elif each.name[0] in PAUSES:
            weight[(times >= each.begin) & (times < each.end)] = 0
    for each in said.phonemes:
        if each.name[0] in BILABIAL:
            begin, end = _closure(each)
            weight[(times > begin - UNSURE) & (times < end + UNSURE)] = 0
    for each in said.phonemes:
        if each.name[0] in BILABIAL:
            begin, end = _closure(each)
            inside = (times > begin) & (times < end)
            inside[min(frames - 1, max(0, round((begin + end) / 2 * FPS)))] = True
            touch[inside], weight[inside] = 1, MISSED
    return Example(amplitude(np.ascontiguousarray(log_mel(said.sound).T)), touch, weight)


def _closure(bilabial: phonemes.Phoneme) -> tuple[float, float]:
    """When lips are together, seconds: before the burst of a p, around that of a b, as long as an m sounds."""
    begin, end = bilabial.begin, bilabial.end
    match bilabial.name[0]:
        case "p":
            return begin - 0.07, begin + 0.01
        case "b":
            return begin - 0.04, min(end, begin + 0.05)
        case _:
            return begin - 0.02, min(end, begin + LONGEST) - 0.01


def tracked_example(item: Item, opening: FloatArray) -> Example:
    """A clip whose lips are `opening` (T,) apart, eye distances."""
    touch = 1 / (1 + np.exp(np.clip((opening - OPEN_AT) / SURE, -30, 30)))
    return Example(amplitude(item.mel), touch.astype(np.float32), np.ones(len(touch), np.float32))


class Sequences:
    """Endless sequences with their sound changed. A pure function of the seed."""

    def __init__(self, examples: dict[str, Sequence[Example]], seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0xC105E])
        self._examples = [each for group in examples.values() for each in group]
        lengths = [np.array([len(each.touch) for each in group], np.float64) for group in examples.values()]
        shares = [MIX[name] * length / length.sum() for name, length in zip(examples, lengths, strict=True)]
        self._chance = np.concatenate(shares) / sum(map(np.sum, shares))
        self._others = amplitude_bank(seed, each=40)

    def draw(self, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mel windows f32 (B, T, 80, K), whether lips touch in every frame (B, T), how sure that is (B, T)."""
        picks = self._rng.choice(len(self._examples), count, p=self._chance)
        parts = [self._sequence(self._examples[pick]) for pick in picks]
        sound, touch, weight = (np.stack(part) for part in zip(*parts, strict=True))
        mel = from_amplitude(self._changed(sound))
        windows = np.ascontiguousarray(np.moveaxis(mel[:, STARTS[:, None] + np.arange(WINDOW.columns)], 3, 2))
        return windows, touch, weight

    def _sequence(self, example: Example) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A stretch of one example, faster or slower: amplitudes (COLUMNS, 80), `touch` and `weight` (TICKS,)."""
        speed = self._rng.uniform(0.85, 1.18)
        first = self._rng.uniform(-10, max(-9, len(example.touch) - speed * TICKS + 10))
        frames = first + speed * np.arange(TICKS)
        known = (frames >= 0) & (frames <= len(example.touch) - 1)
        near = np.clip(np.round(frames), 0, len(example.touch) - 1).astype(int)
        position = COLUMNS_PER_FRAME * first + speed * (WINDOW.start(0) + np.arange(COLUMNS))
        inside = (position >= 0) & (position <= len(example.sound) - 1)
        position = np.clip(position, 0, len(example.sound) - 1)
        low = np.minimum(position.astype(int), len(example.sound) - 2)
        part = (position - low)[:, None].astype(np.float32)
        columns = (1 - part) * example.sound[low] + part * example.sound[low + 1]
        return columns * inside[:, None], example.touch[near], example.weight[near] * known

    def _changed(self, sound: FloatArray) -> FloatArray:
        """Amplitudes (B, columns, 80) as other throats, rooms, microphones and lines would give them."""
        rng, bands, (batch, count, _) = self._rng, np.arange(BANDS), sound.shape
        # Another length of the throat moves formants.
        shift = np.where(rng.random(batch) < 0.7, rng.normal(0, 1.3, batch), 0)
        position = np.clip(bands + shift[:, None] * (0.3 + bands / 40), 0, BANDS - 1.001)
        low = position.astype(int)
        part = (position - low)[:, None].astype(np.float32)
        rows = np.arange(batch)[:, None, None], np.arange(count)[None, :, None]
        sound = (1 - part) * sound[(*rows, low[:, None])] + part * sound[(*rows, low[:, None] + 1)]
        # A room goes on sounding: power that decays by 60 dB in its reverberation time.
        roomy = np.flatnonzero(rng.random(batch) < 0.25)
        stays = 10 ** (-6 * COLUMN_SECONDS / rng.uniform(0.15, 0.6, (len(roomy), 1)))
        power, tail = sound[roomy] ** 2, np.zeros((len(roomy), BANDS))
        wet = rng.uniform(0.1, 0.6, (len(roomy), 1))
        for column in range(1, count):
            tail = stays * (tail + (1 - stays) * power[:, column - 1])
            sound[roomy, column] = np.sqrt(power[:, column] + wet * tail)
        gain = rng.uniform(-14, 10, (batch, 1)) + rng.normal(0, 4, (batch, 1)) * (bands / 40 - 1)
        gain[rng.random(batch) < 0.1] -= 45.0 * ((bands < 4) | (bands > 58))  # telephone
        sound = sound * 10 ** (gain[:, None] / 20).astype(np.float32)
        level = np.sqrt((sound**2).mean((1, 2))) + 1e-3
        for row in np.flatnonzero(rng.random(batch) < 0.1):
            other = self._others[int(rng.integers(len(self._others)))]
            behind = other[(int(rng.integers(len(other))) + np.arange(count)) % len(other)]
            sound[row] = np.sqrt(sound[row] ** 2 + (level[row] * 10 ** (-rng.uniform(6, 30) / 20) * behind) ** 2)
        ratio = 10 ** (-rng.uniform(10, 60, batch) / 20) * (rng.random(batch) < 0.7)
        colour = 10 ** (rng.normal(0, 6, (batch, 1)) * (bands / 40 - 1) / 20)
        colour *= (level * ratio)[:, None] / np.sqrt((colour**2).mean(1, keepdims=True))
        flutter = 1 + 0.18 * rng.standard_normal(sound.shape, np.float32)
        return np.asarray(np.sqrt(sound**2 + (colour[:, None].astype(np.float32) * flutter) ** 2), np.float32)


def learn(examples: dict[str, Sequence[Example]], recipe: ContactRecipe) -> Listener:
    """The network fitted to what `Sequences` draw."""
    torch.manual_seed(recipe.seed)
    sequences = Sequences(examples, recipe.seed)
    network = Listener(recipe.features, recipe.state, dropout=0.2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for _ in track(range(recipe.steps), "contact"):
        windows, touch, weight = (torch.from_numpy(np.asarray(a, np.float32)) for a in sequences.draw(recipe.sequences))
        said, wanted, counts = network(windows)[:, DELAY:], touch[:, :-DELAY], weight[:, :-DELAY]
        loss = F.binary_cross_entropy_with_logits(said, wanted, reduction="none")
        loss = (loss * counts).sum() / counts.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


def closing_of(items: Sequence[Item], face: FaceModel) -> FloatArray:
    """Expression (21, 3) that goes with one eye distance of opening, by least squares on how clips change within
    `STRIDE` frames: in that time lips meet or part, while slower changes belong to what is said."""
    reading, together, alone = face.opening(), np.zeros(len(face.opening())), 0.0
    for item in items:
        change = item.motion[STRIDE:] - item.motion[:-STRIDE]
        opened = change @ reading
        together += change.T @ opened
        alone += float(opened @ opened)
    moved = together / alone * mouth_numbers(face) * face.normalisation.std
    return np.asarray(moved[EXPRESSION].reshape(KEYPOINTS, 3), np.float32)


def separation(network: ContactModel, items: Sequence[Item], face: FaceModel) -> float:
    """How often a frame with touching lips is told from one with open lips (area under the ROC curve)."""
    together, apart = [], []
    for item in items:
        opening = (item.motion - face.rest()) @ face.opening()
        windows = mel_windows(item.mel.T, WINDOW, len(opening))
        answers, _ = network.network.advance(windows, network.begin())
        said, opening = answers[DELAY:], opening[:-DELAY]
        together.append(said[opening < OPEN_AT - SURE])
        apart.append(said[opening > OPEN_AT + SURE])
    return float((np.concatenate(together)[:, None] > np.concatenate(apart)).mean())


def fit_contact(
    items: list[Item], face: FaceModel, path: Path, recipe: ContactRecipe | None = None
) -> dict[str, float]:
    """Fit on training clips and on espeak-ng, write the tables to `path`; `separation` on validation clips.

    Raises KDTalkerError without espeak-ng.
    """
    recipe = recipe or ContactRecipe()
    examples = {"espeak": spoken_examples(recipe.utterances, recipe.seed)}
    learned = [item for item in items if item.clip.split == "train"]
    for name in list(MIX)[1:]:
        clips = [item for item in learned if item.clip.dataset == name]
        examples[name] = [tracked_example(item, (item.motion - face.rest()) @ face.opening()) for item in clips]
    model = ContactModel(learn(examples, recipe).tables(), closing_of(learned, face))
    model.save(path)
    unseen = [item for item in items if item.clip.split == "val"]
    return {
        name: round(separation(model, [item for item in unseen if item.clip.dataset == name], face), 3)
        for name in ("clips", "lrcar", "grid_s1")
    }
