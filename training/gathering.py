"""Every film of a folder, tracked and brought in step with its sound, or the reason why it is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.bench import open_bench
from training.keypoints import WEIGHTS
from training.offset import Offset, in_step, offset_of
from training.team import Team
from training.tracks import Clip
from training.videos import Track, TrackCache, UnusableFilmError, films


@dataclass(frozen=True, slots=True)
class Film:
    """One film and what became of it: a clip in step with its sound, or the reason why there is none."""

    path: Path
    person: str
    track: Track | None = None
    offset: Offset | None = None
    clip: Clip | None = None
    refused: str = ""


def _tracked(path: Path, person: str, cache: TrackCache, progress: Any = lambda share: None) -> Film:
    try:
        return Film(path, person, cache.track(path, progress))
    except UnusableFilmError as error:
        return Film(path, person, refused=str(error))


def _whole(film: Film, track: Track) -> Clip:
    return Clip("clips", film.path.stem, film.person, "train", track.mesh, track.sound)


def _judged(film: Film, offset: Offset | None) -> Film:
    """The film with its clip, or with the reason why it has none."""
    if film.track is None or offset is None:
        return film
    try:
        return replace(film, offset=offset, clip=in_step(_whole(film, film.track), offset))
    except UnusableFilmError as error:
        return replace(film, offset=offset, refused=str(error))


def gather(folder: Path, cache: TrackCache, team: Team, console: Console) -> list[Film]:
    """Every film of the folder, tracked and checked; a folder inside it holds one person, loose films one each."""
    paths = films(folder)
    people = [path.relative_to(folder).parts[0] if path.parent != folder else path.stem for path in paths]
    columns = (TextColumn("tracking {task.fields[film]}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not team.leads) as bar:
        shown = bar.add_task("tracking", total=float(len(paths)), film="")
        for index in team.share(len(paths)):

            def step(share: float, index: int = index) -> None:
                bar.update(shown, completed=index + share, film=paths[index].name)

            _tracked(paths[index], people[index], cache, step)
    team.wait()
    found = [_tracked(path, person, cache) for path, person in zip(paths, people, strict=True)]

    def offsets() -> list[Offset | None]:
        bench = open_bench(WEIGHTS)
        return [None if film.track is None else offset_of(_whole(film, film.track), bench) for film in found]

    return [_judged(film, offset) for film, offset in zip(found, team.from_leader(offsets), strict=True)]
