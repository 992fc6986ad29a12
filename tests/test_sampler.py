"""The sliding window: noise, context, and a stream that equals the whole sound."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.face_mesh import face_model
from engines.pipeline import Talker
from engines.profile import EMBEDDED, KDTALKER, WindowPlan
from engines.runtime.base import TensorSpec
from engines.sampler import RELEASE, Sampler, SamplerState, hold, tick_noise
from engines.talkers import open_talker
from engines.types import Identity, KDTalkerError, MotionTick
from tests import seeded_weights
from tests.golden import assert_close, golden, golden_seed


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    """A face at rest, frontal: all the sampler needs of a person."""
    source = np.zeros(70, np.float32)
    source[0] = 0.37
    face = face_model()
    canonical = face.canonical_keypoints(face.template)
    return Identity(talker.profile.name, "rest", canonical, source, np.zeros((512, 512, 3), np.uint8))


def speech(seconds: float = 2.4) -> np.ndarray:
    """A buzz whose loudness swells five times a second: enough like speech to move a mouth."""
    time = np.arange(int(seconds * 16000)) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 25))
    return (0.1 * buzz * (1 + np.sin(2 * np.pi * 5 * time))).astype(np.float32)


def stream(talker: Talker, identity: Identity, sound: np.ndarray, chunk: int, seed: int = 0) -> np.ndarray:
    talk = talker.begin(identity, seed)
    ticks: list[MotionTick] = []
    for at in range(0, len(sound), chunk):
        ticks += talker.listen(talk, sound[at : at + chunk])
    ticks += talker.finish(talk, len(sound) // 640)
    assert [tick.tick for tick in ticks] == list(range(len(sound) // 640))
    return np.stack([tick.motion for tick in ticks])


def test_noise_is_a_function_of_seed_and_tick_alone() -> None:
    whole = tick_noise(7, -3, 12)
    np.testing.assert_array_equal(whole[5:9], tick_noise(7, 2, 4))
    assert not np.array_equal(whole, tick_noise(8, -3, 12))
    many = tick_noise(0, 0, 2000)
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01


def test_ticks_one_by_one_equal_the_whole_sound(talker: Talker, identity: Identity) -> None:
    sound = speech()
    whole = stream(talker, identity, sound, len(sound))
    assert np.isfinite(whole).all()
    for chunk in (640, 1000):
        np.testing.assert_array_equal(stream(talker, identity, sound, chunk), whole)


@pytest.mark.parametrize("hop", [1, 5, 16])
def test_any_hop_gives_every_frame_of_a_stream_as_of_the_whole_sound(identity: Identity, hop: int) -> None:
    talker = open_talker(hop=hop)
    talker.warm()
    assert talker.profile.window.new == hop
    sound = speech(1.4)
    np.testing.assert_array_equal(stream(talker, identity, sound, 640), stream(talker, identity, sound, len(sound)))
    assert talker.sampler.engine.unprepared == 0


def test_a_seed_replays_and_another_differs(talker: Talker, identity: Identity) -> None:
    sound = speech(1.2)
    first = stream(talker, identity, sound, 640, seed=1)
    np.testing.assert_array_equal(first, stream(talker, identity, sound, 640, seed=1))
    assert not np.array_equal(first, stream(talker, identity, sound, 640, seed=2))


def test_frames_leave_as_soon_as_their_look_ahead_is_there(talker: Talker, identity: Identity) -> None:
    plan, reach = talker.profile.window, talker.profile.mel.reach
    talk = talker.begin(identity)
    sound = speech(1.0)
    arrived = {}
    for tick in range(20):
        for ready in talker.listen(talk, sound[tick * 640 : (tick + 1) * 640]):
            arrived[ready.tick] = tick + 1
    delay = plan.new - 1 + plan.lookahead + -(-reach // 640)
    assert arrived[0] <= delay
    # Once running, the first frame of a hop waits for the whole delay, the last one for H - 1 ticks less.
    assert {arrived[tick] - tick for tick in arrived if tick >= plan.new} <= set(range(delay - plan.new + 1, delay + 1))


def test_committed_rows_come_back_untouched(talker: Talker) -> None:
    plan = talker.profile.window
    rng = np.random.default_rng(0)
    rows = {"tokens": (2, 2, 70), "sound": (2, plan.length, talker.profile.feature_width)}
    rows |= dict.fromkeys(("noise", "committed"), (2, plan.length, 70))
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in rows.items()}
    mask = np.zeros((2, plan.length), np.float32)
    mask[:, : plan.committed] = 1
    sampler = talker.sampler
    out = sampler.engine.run(mask=mask, guidance=sampler.guidance, temperature=sampler.temperature, **arrays)
    np.testing.assert_array_equal(out["motion"][:, : plan.committed], arrays["committed"][:, : plan.committed])


def test_calls_in_one_batch_do_not_touch_each_other(talker: Talker, identity: Identity) -> None:
    plan, width = talker.profile.window, talker.profile.feature_width
    states = [talker.begin(identity, seed).sampler for seed in (1, 2)]
    sound = np.random.default_rng(0).normal(size=(2, plan.length, width)).astype(np.float32)
    together, _ = talker.sampler.advance(states, sound)
    for row in range(2):
        alone, _ = talker.sampler.advance([states[row]], sound[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-4)


def test_fewer_steps_in_mid_call_do_not_jump(talker: Talker, identity: Identity) -> None:
    """Every fifth hop the number of steps changes; the change between frames there is as large as it is anyway."""
    sound, new, every = speech(12.0), talker.profile.window.new, 5

    def changes(pattern: Callable[[int], bool]) -> np.ndarray:
        talk, ticks = talker.begin(identity, seed=3), list[MotionTick]()
        for at in range(0, len(sound), 640):
            ticks += talker.listen(talk, sound[at : at + 640], brief=pattern(len(ticks) // new))
        motion = np.stack([tick.motion for tick in ticks])
        return np.linalg.norm(np.diff(motion[:, 7:], axis=0), axis=1)[every * new - 1 :: every * new]

    full, one = changes(lambda _: False), changes(lambda _: True)
    assert not np.allclose(full, one, rtol=0.01), "fewer steps are another computation"
    switching = changes(lambda hop: hop // every % 2 == 1)
    assert len(switching) >= 25
    assert np.median(switching) < 1.3 * max(np.median(full), np.median(one))
    assert switching.max() < 1.5 * max(full.max(), one.max())
    assert talker.sampler.brief is not None


# ---- the paper's run


def test_without_context_and_look_ahead_it_is_the_papers_run() -> None:
    """50 leading steps, windows of 64 frames side by side, the clip's beginning after its end: the golden windows."""
    torch = pytest.importorskip("torch")
    from engines.audio import log_mel, mel_windows
    from engines.networks.audio_encoder import AUDIO_WIDTH
    from engines.networks.checkpoints import AUDIO_ENCODER, DENOISER
    from engines.networks.ddim import Ddim, published_sampling
    from engines.runtime.torch import TorchEngine
    from tests.published import network

    data, plan = golden("e2e"), WindowPlan(committed=0, new=64, lookahead=0)
    frames = len(data["smooth_t_in"])
    pcm = data["pcm16"].astype(np.float32) / 32768
    with torch.inference_mode():
        windows = mel_windows(log_mel(pcm[: frames * 640]), KDTALKER.mel, frames)
        features = network(AUDIO_ENCODER)(torch.from_numpy(windows)).numpy()
    shapes = {"tokens": (2, 70), "sound": (64, AUDIO_WIDTH), "noise": (64, 70), "committed": (64, 70), "mask": (64,)}
    specs = [TensorSpec(name, np.dtype(np.float32), ("batch", *shape)) for name, shape in shapes.items()]
    specs += [TensorSpec(name, np.dtype(np.float32), (70,)) for name in ("guidance", "temperature")]
    loop = Ddim(network(DENOISER), published_sampling(50))
    engine = TorchEngine("window", loop, specs, [TensorSpec("motion", np.dtype(np.float32), ("batch", 64, 70))])

    def noise(_: int, first: int, count: int) -> np.ndarray:
        return seeded_weights.normal(golden_seed(), f"e2e.noise.{first // 64}", (count, 70))

    ones = np.ones(70, np.float32)
    sampler = Sampler(engine, plan, ones, ones, noise=noise)
    state = sampler.from_photo(data["ori_token"].reshape(70), data["ref_tokens"][0].reshape(70), seed=0)
    expected = data["windows"].reshape(-1, 70)
    padded = features[np.arange(len(expected)) % frames]
    made = []
    for sound in padded.reshape(-1, 1, 64, AUDIO_WIDTH):
        new, (state,) = sampler.advance([state], sound)
        made.append(new[0])
    assert_close(np.concatenate(made), expected, 1e-4)


# ---- hop, limits, other batches


def test_every_hop_leaves_windows_the_network_was_trained_for() -> None:
    for profile in (EMBEDDED, KDTALKER):
        for hop in range(1, 17):
            plan = profile.with_hop(hop).window
            assert plan.new == hop
            assert plan.committed > 0
            assert plan.length == profile.longest if profile.always_longest else plan.length <= profile.longest
        for hop in (0, 17):
            with pytest.raises(KDTalkerError, match="choose 1 to 16"):
                profile.with_hop(hop)
    delays = [round(1000 * profile.delay, 1) for profile in (EMBEDDED, EMBEDDED.with_hop(1), KDTALKER)]
    assert delays == [160, 120, 252.5]


def test_a_number_beyond_its_limit_is_held_until_it_comes_back() -> None:
    inner, free = 6 * RELEASE, np.zeros(70, bool)
    frames = np.zeros((6, 70), np.float32)
    frames[:, 3] = [5.9, 6.1, 5.8, 5.3, 5.8, -7.0]
    expected = frames.copy()
    expected[:, 3] = [5.9, inner, inner, 5.3, 5.8, -inner]
    whole = frames.copy()
    held = hold(whole, free, 6.0)
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    assert held.nonzero()[0].tolist() == [3]
    state = free
    for first in range(0, 6, 2):  # any hop gives the same
        state = hold(frames[first : first + 2], state, 6.0)
    np.testing.assert_array_equal(frames, whole)
    np.testing.assert_array_equal(state, held)


def test_what_is_held_is_what_the_next_window_sees(talker: Talker, identity: Identity) -> None:
    sampler = replace(talker.sampler, limit=0.5, smooth=0.0, quiet=None)
    state = talker.begin(identity).sampler
    sound = np.random.default_rng(0).normal(size=(1, sampler.plan.length, talker.profile.feature_width))
    new, (after,) = sampler.advance([state], sound.astype(np.float32))
    assert np.abs(new).max() <= 0.5
    assert after.held.any()
    np.testing.assert_array_equal(after.history[-sampler.plan.new :], new[0])


def test_frames_that_leave_are_smoothed_and_later_windows_see_them_as_they_were(
    talker: Talker, identity: Identity
) -> None:
    rough, plan = replace(talker.sampler, smooth=0.0, quiet=None), talker.profile.window
    state = talker.begin(identity).sampler
    sound = np.random.default_rng(0).normal(size=(1, plan.length, talker.profile.feature_width)).astype(np.float32)
    made, (after,) = rough.advance([state], sound)
    smoothed, (same,) = replace(rough, smooth=0.1).advance([state], sound)
    np.testing.assert_array_equal(same.history, after.history)
    around = np.concatenate([state.history[-1:], made[0], after.ahead[:1]])
    expected = np.stack([np.convolve(number, [0.1, 0.8, 0.1], "valid") for number in around.T], axis=1)
    np.testing.assert_allclose(smoothed[0], expected, atol=1e-5)


def test_what_guidance_exaggerates_is_brought_back_as_it_leaves(talker: Talker, identity: Identity) -> None:
    quiet, plan = talker.sampler.quiet, talker.profile.window
    assert quiet is not None
    state = talker.begin(identity).sampler
    sound = np.random.default_rng(0).normal(size=(1, plan.length, talker.profile.feature_width)).astype(np.float32)
    plain = replace(talker.sampler, quiet=replace(quiet, rescale=np.ones_like(quiet.rescale)))
    (made, (after,)), (brought, (same,)) = (each.advance([state], sound) for each in (plain, talker.sampler))
    np.testing.assert_array_equal(same.history, after.history)
    assert quiet.rescale.min() < 1
    np.testing.assert_allclose(brought - quiet.rest, quiet.rescale * (made - quiet.rest), atol=1e-5)


def minute(sampler: Sampler, states: list[SamplerState], sounds: np.ndarray) -> np.ndarray:
    """Frames (B, 1500, 70) of calls that hear features (B, T, A)."""
    plan, made = sampler.plan, []
    for first in range(0, 1500, plan.new):
        new, states = sampler.advance(states, sounds[:, first : first + plan.length])
        made.append(new)
    return np.concatenate(made, axis=1)


def test_a_minute_is_the_same_in_any_batch(talker: Talker, identity: Identity) -> None:
    """Rounding that differs with the batch must not grow: within a thousandth of a deviation."""
    sampler, plan = talker.sampler, talker.profile.window
    time = np.arange(1500 + plan.length)[None, :, None] / 25
    slow = np.sin(2 * np.pi * np.array([0.7, 2.1, 3.3])[:, None, None] * time)
    drawn = np.random.default_rng(0).normal(size=(3, 1, talker.profile.feature_width))
    sounds = (slow * drawn).astype(np.float32)
    states = [talker.begin(identity, seed).sampler for seed in (1, 2, 3)]
    together = minute(sampler, states, sounds)
    assert together.std(axis=1).mean() > 0.05
    alone = minute(sampler, states[:1], sounds[:1])
    assert np.abs(alone[0] - together[0]).max() < 1e-3
    assert np.array_equal(alone, minute(sampler, states[:1], sounds[:1]))


def test_a_minute_is_the_same_in_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from engines.networks.ddim import Ddim, DdimConfig
    from engines.networks.denoiser import Denoiser, DenoiserConfig
    from engines.runtime.opening import open_engine
    from engines.runtime.torch import TorchEngine
    from export.graphs import window_graph
    from export.onnx_file import write

    torch.manual_seed(0)
    sizes = DenoiserConfig(width=48, layers=2, heads=4, time_width=16, audio_width=24, rotary=8, time_per_token=True)
    config = DdimConfig(steps=2, schedule="cosine", prediction="v", spacing="trailing", context_time=500, guided=True)
    loop = Ddim(Denoiser(sizes).eval(), config)
    graph = window_graph(loop, EMBEDDED.longest, fixed=False)
    write(graph, tmp_path / "window.onnx", {})
    engines = open_engine(tmp_path / "window.onnx"), TorchEngine("window", loop, graph.inputs, graph.outputs)
    guidance, temperature = np.full(70, 1.5, np.float32), np.full(70, 0.5, np.float32)
    random, silence = np.random.default_rng(0), np.zeros(24, np.float32)
    tokens = random.standard_normal((2, 70), np.float32)
    sounds = random.standard_normal((1, 1500 + EMBEDDED.window.length, 24), np.float32)
    made = []
    for engine in engines:
        sampler = Sampler(engine, EMBEDDED.window, guidance, temperature)
        made.append(minute(sampler, [sampler.begin(*tokens, silence, seed=1)], sounds))
    assert made[0].std(axis=1).mean() > 0.05
    assert np.abs(made[0] - made[1]).max() < 1e-3
