"""What crosses the border of `server.batcher` can cross that of a process: records pickle, buffers can be shared."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from collections.abc import Iterator, Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

from engines.controls import Controls
from engines.pipeline import Talk, Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import Identity, MelTick, MotionTick, Portrait, SpeechTick
from tests.test_sampler import speech
from tests.test_server import PORTRAIT

PICTURE = (512, 512, 3)


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return prepare(PORTRAIT.read_bytes())


@pytest.fixture(scope="module")
def identity(talker: Talker, portrait: Portrait) -> Identity:
    return talker.renderer.enrol(portrait)


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=1 << 24)
    yield memory
    memory.close()
    memory.unlink()


def same(a: Any, b: Any) -> bool:
    """Whether two records are equal to the last bit, whatever they are made of."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, each.name), getattr(b, each.name)) for each in dataclasses.fields(a))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dict__"):
        return same(vars(a), vars(b))
    return bool(a == b)


def test_records_come_back_from_a_pickle_as_they_were(talker: Talker, portrait: Portrait, identity: Identity) -> None:
    sound = speech(0.4)
    records = [
        SpeechTick(3, sound[:640], np.arange(1920, dtype=np.int16)),
        MelTick(3, np.full(talker.mel_shape, -4, np.float32)),
        MotionTick(3, identity.source),
        portrait,
        identity,
        Controls(emotion="happy"),
        talker.begin(identity, seed=5).sampler,
    ]
    for record in records:
        again = pickle.loads(pickle.dumps(record))
        assert same(again, record), type(record).__name__
        assert not same(dataclasses.replace(again, **changed(again)), record), "a difference would be seen"


def changed(record: Any) -> dict[str, Any]:
    """The first number or array of a record, altered."""
    for each in dataclasses.fields(record):
        value = getattr(record, each.name)
        if isinstance(value, int | float | np.ndarray):
            return {each.name: value / 2 + 1 if isinstance(value, float) else value + 1}
    return {}


def test_a_call_goes_on_in_a_copy_of_itself(talker: Talker, identity: Identity) -> None:
    sound = speech(2.0)
    talk = talker.begin(identity, seed=5)
    talker.listen(talk, sound[:16_000])
    moved: Talk = pickle.loads(pickle.dumps(talk))
    here, there = (talker.listen(each, sound[16_000:]) for each in (talk, moved))
    assert len(here) >= 20
    assert same(here, there)


def test_an_identity_may_lie_in_shared_memory(talker: Talker, identity: Identity, shared: SharedMemory) -> None:
    used = 0

    def place(array: np.ndarray) -> np.ndarray:
        nonlocal used
        there: np.ndarray = np.ndarray(array.shape, array.dtype, shared.buf, used)
        there[...] = array
        used += -(-array.nbytes // 64) * 64
        return there

    tables = {name: place(np.asarray(table)) for name, table in identity.tables.items()}
    lying = dataclasses.replace(identity, crop=place(identity.crop), tables=tables)
    motion = moving(identity)
    np.testing.assert_array_equal(talker.render([lying], motion), talker.render([identity], motion))
    assert used > identity.crop.nbytes
    del tables, lying


def moving(identity: Identity) -> np.ndarray:
    motion = identity.source[None].copy()
    motion[0, 1] += 5
    return motion


def _elsewhere(memory: str, pickled: bytes, sound: np.ndarray, answers: Any) -> None:
    """A worker as a process: records in and out by pickle, the picture into shared memory."""
    identity: Identity = pickle.loads(pickled)
    talker, shared = open_talker(), SharedMemory(memory)
    talk = talker.begin(identity, 5)
    ticks = talker.listen(talk, sound)
    out: np.ndarray = np.ndarray((1, *PICTURE), np.uint8, shared.buf)
    talker.render([identity], ticks[-1].motion[None], out)
    answers.send(ticks)
    del out
    shared.close()


def test_a_worker_may_be_a_process(talker: Talker, identity: Identity, shared: SharedMemory) -> None:
    context = multiprocessing.get_context("spawn")
    answers, other = context.Pipe(duplex=False)
    sound = speech(1.0)
    worker = context.Process(target=_elsewhere, args=(shared.name, pickle.dumps(identity), sound, other))
    worker.start()
    other.close()
    assert answers.poll(90)
    ticks: list[MotionTick] = answers.recv()
    worker.join(30)
    assert worker.exitcode == 0
    expected = talker.listen(talker.begin(identity, 5), sound)
    assert same(ticks, expected)
    picture: np.ndarray = np.ndarray((1, *PICTURE), np.uint8, shared.buf).copy()
    np.testing.assert_array_equal(picture, talker.render([identity], expected[-1].motion[None]))
