"""The published profile behind the shared contracts: faces, renderer, talker, motion files and the command."""

import copy
import io
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import kdtalker
from engines.motion_file import MotionClip, load_motion, save_motion
from engines.networks.checkpoints import save_normalisation
from engines.networks.decoder import DecoderSizes, SpadeDecoder
from engines.networks.denoiser import Denoiser, DenoiserConfig
from engines.networks.layers import fold
from engines.networks.model import PublishedModel, random_model, randomised
from engines.networks.published_graphs import window
from engines.networks.warping import WarpingModule, WarpSizes
from engines.pipeline import Talker
from engines.placing import PublishedPlacing, RelativePlacing
from engines.profile import KDTALKER
from engines.published.cropping import PasteBack
from engines.published.networks import (
    NORMALISATION,
    PublishedNetworks,
    candidates,
    open_networks,
    torch_networks,
)
from engines.published.talker import PublishedRenderer, find_face, published_talker
from engines.runtime.stepped import SteppedWindow
from engines.runtime.torch import TorchEngine
from engines.types import EngineError, Identity, KDTalkerError, PortraitError, WeightsError
from export import examples
from export.graphs import published
from export.onnx_file import write
from tests.test_media import write_wav

NARROW = DecoderSizes(features=16, hidden=8, middle=16, up=(16, 16))


def narrow(model: PublishedModel) -> PublishedModel:
    """The same model with a renderer and a denoiser of few channels, which a test can afford to run often."""
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(48, layers=1, heads=4, time_width=16, audio_width=512, rotary=8)).eval()
    warping = fold(WarpingModule(WarpSizes(encoder=(8, 8, 8, 8, 8), decoder=(8, 8, 8, 8, 8), features=16)))
    return replace(model, denoiser=denoiser, warping=warping, decoder=fold(randomised(SpadeDecoder(NARROW))))


@pytest.fixture(scope="module")
def model() -> PublishedModel:
    return narrow(random_model(0, "cpu"))


@pytest.fixture
def networks(model: PublishedModel) -> PublishedNetworks:
    return replace(torch_networks(model), rows=2)


@pytest.fixture(scope="module")
def files_of(model: PublishedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks as files for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("networks")
    facts = {"profile": KDTALKER.name}
    for graph in published(model):
        if not graph.name.startswith("retargeting"):
            write(graph, folder / f"{graph.name}.onnx", facts)
    save_normalisation(folder / NORMALISATION, model.normalisation)
    return folder


def photo() -> bytes:
    return (files("engines") / "avatars" / "astronaut.jpg").read_bytes()


def people(renderer: PublishedRenderer) -> list[Identity]:
    """Two enrolled pictures; what they show does not matter to random networks."""
    generator = np.random.default_rng(1)
    pictures = cv2.resize(generator.integers(0, 256, (8, 16, 3), np.uint8), (600, 300))
    return [renderer.enrol_face(pictures[:, x : x + 300], f"{x:064x}") for x in (0, 300)]


def moves(identity: Identity, count: int) -> np.ndarray:
    """Motion rows about the photo's own."""
    noise = np.random.default_rng(2).normal(0, 0.05, (count, 70)).astype(np.float32)
    return np.asarray(identity.source + noise * [1, 60, 60, 60, *[1] * 66], np.float32)


@pytest.mark.parametrize("identities", [2, 3])
def test_a_batch_of_two_people_is_each_of_them_alone(
    model: PublishedModel, networks: PublishedNetworks, identities: int
) -> None:
    renderer = PublishedRenderer(replace(networks, identities=identities))
    first, second = people(renderer)
    rows = moves(first, 3)
    mixed = renderer.render([first, second, first], rows)
    assert mixed.shape == (3, 512, 512, 3)
    assert np.abs(mixed[0].astype(int) - mixed[2]).max() > 1
    one_by_one = PublishedRenderer(replace(torch_networks(model), rows=1))
    alone = one_by_one.render([first, first], rows[[0, 2]])
    assert np.abs(alone.astype(int) - mixed[[0, 2]]).max() <= 1
    out = np.empty((1, 512, 512, 3), np.uint8)
    assert renderer.render([second], rows[1:2], out) is out
    assert np.abs(out[0].astype(int) - mixed[1]).max() <= 1


def test_a_new_photo_takes_the_place_longest_unused(networks: PublishedNetworks) -> None:
    renderer = PublishedRenderer(replace(networks, rows=1, identities=2))
    first, second = people(renderer)
    third = replace(first, digest="3" * 64)
    row = moves(first, 1)
    alone = renderer.render([first], row)
    for identity in (second, first, third, second, third):
        renderer.render([identity], row)
    np.testing.assert_array_equal(renderer.render([third], row), alone)
    np.testing.assert_array_equal(renderer.render([first], row), alone)


def test_stitching_changes_the_picture(networks: PublishedNetworks) -> None:
    plain = PublishedRenderer(networks)
    identity = people(plain)[0]
    rows = moves(identity, 1)
    before = plain.render([identity], rows)
    assert (before != PublishedRenderer(networks, stitch=True).render([identity], rows)).any()


def test_files_render_what_torch_renders(networks: PublishedNetworks, files_of: Path) -> None:
    """Every network in ONNX Runtime, behind the same renderer and talker."""
    sound = np.random.default_rng(4).normal(0, 0.1, 640 * 9).astype(np.float32)

    opened = open_networks(files_of)
    assert opened.renderer.runtime == "onnxruntime"
    (talker, renderer), (other, others) = (published_talker(chosen, stitch=True) for chosen in (networks, opened))
    identity, found = people(renderer)[0], people(others)[0]
    np.testing.assert_allclose(found.source, identity.source, atol=1e-3)

    def run(chosen: Talker) -> np.ndarray:
        # The same identity for both: normalising magnifies the last digits of the photo's motion.
        talk = chosen.begin(identity, seed=5)
        ticks = [*chosen.listen(talk, sound), *chosen.finish(talk, 1)]
        return ticks[0].motion[None]

    motions = run(talker)
    np.testing.assert_allclose(run(other), motions, atol=1e-3)
    expected = renderer.render([identity], motions)
    gap = np.abs(others.render([found], motions).astype(int) - expected)
    assert expected.std() > 5
    assert gap.max() <= 2
    assert (gap > 0).mean() < 0.01


def test_a_published_call_meets_no_size_that_was_not_prepared(files_of: Path) -> None:
    networks = open_networks(files_of)
    talker, renderer = published_talker(networks, stitch=True)
    talker.warm()
    identity = people(renderer)[0]
    talk = talker.begin(identity)
    ticks = [tick for _ in range(10) for tick in talker.listen(talk, np.zeros(640, np.float32))]
    assert ticks
    renderer.render([identity], ticks[0].motion[None])
    engines = (networks.audio_encoder, talker.sampler.engine, networks.motion_extractor, networks.enrolment)
    assert [engine.unprepared for engine in (*engines, networks.renderer, networks.stitching)] == [0] * 6


def test_files_that_do_not_belong_together_are_refused(files_of: Path, tmp_path: Path) -> None:
    for path in files_of.iterdir():
        (tmp_path / path.name).symlink_to(path)
    renderer = onnx.load(files_of / "renderer.onnx")
    for entry in renderer.metadata_props:
        if entry.key == "sampling":
            entry.value = '"native"'
    (tmp_path / "renderer.onnx").unlink()
    onnx.save(renderer, tmp_path / "renderer.onnx")
    with pytest.raises(WeightsError, match="come from different exports and do not fit together"):
        open_networks(tmp_path)
    (tmp_path / "renderer.onnx").unlink()
    with pytest.raises(WeightsError, match="no file of the network 'renderer'; `kdtalker export --out` writes it"):
        open_networks(tmp_path)
    shutil.copy(files_of / "step.onnx", tmp_path / "renderer.onnx")
    with pytest.raises(WeightsError, match="states network 'step' and 'renderer' is needed"):
        open_networks(tmp_path)
    opened = open_networks(files_of)
    assert isinstance(opened.window(50), SteppedWindow)  # the original's routine, by any runtime
    with pytest.raises(WeightsError, match="states steps '10' and '12' is needed"):
        opened.window(12)
    with pytest.raises(WeightsError, match="holds no file of the network 'enrolment'"):
        open_networks(tmp_path / "none")
    with pytest.raises(EngineError, match="run on cpu or cuda, not on 'tpu'"):
        open_networks(files_of, "tpu")


def test_half_precision_renderer_shows_the_same_picture() -> None:
    """A renderer of few cells, because CPUs are slow at half precision; grids stay in single."""
    torch.manual_seed(0)
    sizes = WarpSizes(channels=4, depth=4, encoder=(8, 8, 8), decoder=(8, 8, 8), features=16)
    warping = fold(WarpingModule(sizes)).requires_grad_(False)
    decoder = fold(randomised(SpadeDecoder(NARROW))).requires_grad_(False)
    volume, source = torch.randn(1, 4, 4, 8, 8), torch.rand(1, 21, 3) - 0.5
    driving = source + 0.1 * torch.randn(2, 21, 3)
    full = decoder(warping(warping.prepare(volume, source), driving))
    warping.half(), decoder.half()
    prepared = warping.prepare(volume, source)
    assert {table.dtype for table in prepared} == {torch.float32}
    rough = decoder(warping(prepared, driving))
    assert rough.dtype == torch.float16
    assert 0 < (full - rough.float()).abs().max() < 0.01


def test_half_precision_on_a_cpu_rounds_the_weights() -> None:
    half = random_model(0, "cpu", "float16")
    for name, rounded in (("appearance", True), ("decoder", True), ("motion_extractor", False)):
        weights = torch.cat([parameter.flatten() for parameter in getattr(half, name).parameters()])
        assert weights.dtype == torch.float32
        assert torch.equal(weights, weights.half().float()) is rounded
    assert half.half is None


def test_half_precision_samples_the_same_motion(model: PublishedModel) -> None:
    network = window(model, 5, 16)
    arrays = examples.draw(network.inputs, 1)
    full = TorchEngine(*network).run(**arrays)["motion"]
    rough = TorchEngine(*window(replace(model, denoiser=copy.deepcopy(model.denoiser)), 5, 16), half=torch.float16)
    halved = rough.run(**arrays)["motion"]
    assert halved.dtype == np.float32
    assert 0 < np.abs(full - halved).max() < 0.02 * np.abs(full).max()


def test_the_stream_equals_the_whole_sound(networks: PublishedNetworks) -> None:
    talker, renderer = published_talker(networks)
    identity = people(renderer)[0]
    sound = np.random.default_rng(4).normal(0, 0.1, 640 * 10 + 300).astype(np.float32)

    def run(chunk: int) -> np.ndarray:
        talk = talker.begin(identity, seed=5)
        ticks = [tick for at in range(0, len(sound), chunk) for tick in talker.listen(talk, sound[at : at + chunk])]
        ticks += talker.finish(talk, 11)
        assert [tick.tick for tick in ticks] == list(range(11))
        return np.stack([tick.motion for tick in ticks])

    whole = run(len(sound))
    np.testing.assert_allclose(run(640), whole, atol=1e-4)
    np.testing.assert_array_equal(whole[:, 0], identity.source[0])  # absolute motion keeps the photo's scale
    assert not whole[:, 6].any()


def test_the_best_file_of_a_network_is_taken(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    names = ["net.pt2", "net.onnx", "net.float16.onnx", f"net.float16.{key}.engine", f"net.{key}.engine", "net2.onnx"]
    for name in names:
        (tmp_path / name).touch()

    def order(device: str, precision: str) -> list[int]:
        return [names.index(path.name) for path in candidates(tmp_path, "net", device, precision)]

    assert order("cpu", "float32") == [1, 0]
    assert order("cpu", "float16") == [2, 1, 0]
    assert order("cuda", "float32") == [4, 3, 1, 0]
    assert order("cuda", "float16") == [3, 4, 2, 1, 0]


def test_random_weights_follow_their_seed(model: PublishedModel) -> None:
    state = torch.random.get_rng_state()
    same, other = random_model(0, "cpu"), random_model(1, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    expected = model.motion_extractor.fc_kp.weight
    assert torch.equal(same.motion_extractor.fc_kp.weight, expected)
    assert not torch.equal(other.motion_extractor.fc_kp.weight, expected)


def test_devices_and_precisions_that_are_not_there_are_told() -> None:
    with pytest.raises(EngineError, match="'float7'; choose one of float32, float16"):
        random_model(0, "cpu", "float7")
    with pytest.raises(EngineError, match="device 'warp:3'"):
        random_model(0, "warp:3")


@pytest.mark.parametrize("upright", [False, True])
def test_a_face_is_found_cut_and_put_back(upright: bool) -> None:
    face = find_face(photo(), upright=upright)
    frame = cv2.resize(face.pixels, (512, 512), interpolation=cv2.INTER_LINEAR)
    pasted = PasteBack.into(face.photo, face.to_photo)(frame)
    assert np.abs(pasted.astype(int) - face.photo).mean() < 1
    centre = face.to_photo @ [256, 256, 1]
    left, right = face.to_photo @ [0, 256, 1], face.to_photo @ [511, 256, 1]
    assert 0 < centre[0] < face.photo.shape[1]
    assert right[0] - left[0] > 100
    black = PasteBack.into(face.photo, face.to_photo)(np.zeros_like(frame))
    assert not black[int(centre[1]), int(centre[0])].any()


def test_a_picture_without_a_face_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 300), "grey").save(buffer, "PNG")
    with pytest.raises(PortraitError, match="No face"):
        find_face(buffer.getvalue())


def test_motion_files_keep_what_they_are_given(tmp_path: Path) -> None:
    path, rows = tmp_path / "motion", np.random.default_rng(0).normal(size=(4, 70)).astype(np.float32)
    save_motion(path, MotionClip("kdtalker", rows, rows[0]))
    loaded = load_motion(path, "kdtalker")
    np.testing.assert_array_equal(loaded.rows, rows)
    np.testing.assert_array_equal(loaded.made_on, rows[0])
    with pytest.raises(KDTalkerError, match="--profile kdtalker"):
        load_motion(path, "embedded")
    whole = path.read_bytes()
    for content in (b"", b"motion", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(KDTalkerError, match="no motion file"):
            load_motion(path, "kdtalker")
    save_motion(path, MotionClip("kdtalker", rows * np.nan, rows[0]))
    with pytest.raises(KDTalkerError, match="impossible"):
        load_motion(path, "kdtalker")
    with pytest.raises(KDTalkerError, match="cannot be written"):
        save_motion(tmp_path / "missing" / "motion", loaded)


def test_replayed_motion_is_the_new_photos_own(model: PublishedModel, networks: PublishedNetworks) -> None:
    first, second = people(PublishedRenderer(networks))
    rows = moves(first, 3)
    relative = PublishedPlacing(model.normalisation, relative=True).transfer(second.source, rows, first.source)
    np.testing.assert_allclose(relative[0, [0, 1, 2, 3, 4, 5]], second.source[:6], atol=1e-3)
    absolute = PublishedPlacing(model.normalisation).transfer(second.source, rows, first.source)
    np.testing.assert_array_equal(absolute[:, 1:6], rows[:, 1:6])
    np.testing.assert_array_equal(absolute[:, 0], second.source[0])


def test_embedded_motion_replays_on_its_own_photo_and_moves_with_another() -> None:
    from engines.talkers import open_talker

    placing = open_talker().placing
    assert isinstance(placing, RelativePlacing)
    source = np.zeros(70, np.float32)
    source[:3] = 0.4, 2.0, 1.0
    rows = np.repeat(source[None], 3, axis=0)
    rows[:, 1] += [0, 1, 2]
    np.testing.assert_allclose(placing.transfer(source, rows, source), rows, atol=1e-4)
    other = source + np.float32(0.1)
    np.testing.assert_allclose(placing.transfer(other, rows, source)[:, 1], rows[:, 1] + 0.1, atol=1e-4)


def run(*arguments: object) -> int:
    return kdtalker.main(["render", *map(str, arguments)])


@pytest.mark.timeout(900)
def test_the_command_renders_exactly_and_into_the_whole_photo(tmp_path: Path) -> None:
    sound, out, kept = write_wav(tmp_path / "s.wav", 0.08), tmp_path / "out.mp4", tmp_path / "motion.npz"
    tall = tmp_path / "tall.png"
    Image.open(io.BytesIO(photo())).crop((60, 0, 413, 511)).save(tall)  # odd sides, which video cannot have
    options = ("--profile", "kdtalker", "--weights", "random:0", "--exact", "--stitch", "--full-frame")
    assert run(tall, sound, "-o", out, *options, "--save-motion", kept) == 0
    with av.open(str(out)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate or 0)) == (352, 510, 25.0)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 2
    original = np.asarray(Image.open(tall))[:510, :352]
    assert np.abs(frames[0][-60:].astype(int) - original[-60:]).mean() < 12  # below the face the photo is untouched
    assert len(load_motion(kept, KDTALKER.name).rows) == 2


@pytest.mark.timeout(900)
def test_the_command_renders_by_streaming(tmp_path: Path) -> None:
    sound, out = write_wav(tmp_path / "s.wav", 0.04), tmp_path / "out.mp4"
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(photo())
    assert run(picture, sound, "-o", out, "--profile", "kdtalker", "--weights", "random:0", "--relative") == 0
    with av.open(str(out)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (512, 512)
        assert sum(1 for _ in video.decode(video=0)) == 1


def test_without_weights_the_command_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDTALKER_CACHE", str(tmp_path / "cache"))
    sound, picture = write_wav(tmp_path / "s.wav", 0.2), tmp_path / "photo.jpg"
    picture.write_bytes(photo())
    assert run(picture, sound, "-o", tmp_path / "out.mp4", "--profile", "kdtalker") == 1
    assert capsys.readouterr().err == (
        "kdtalker render: The published weights are not on this machine; run `kdtalker weights` to fetch them.\n"
    )
    assert run(picture, sound, "-o", tmp_path / "out.mp4", "--exact", "--stitch") == 1
    assert "--exact, --stitch needs `--profile kdtalker`" in capsys.readouterr().err
