"""Settings: from the environment, checked, and never changed afterwards."""

import pytest
from pydantic import ValidationError

from server.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "KDTALKER_HOST", "KDTALKER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_without_an_environment_it_listens_on_this_machine_only() -> None:
    assert (Settings().host, Settings().port) == ("127.0.0.1", 8080)
    assert Settings().ice_servers == ()


def test_host_and_port_are_honoured_bare_and_prefixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "9000")
    assert (Settings().host, Settings().port) == ("0.0.0.0", 9000)
    monkeypatch.setenv("KDTALKER_PORT", "9001")
    assert Settings().port == 9001
    assert Settings(port=9002).port == 9002


def test_ice_servers_are_json_and_take_nothing_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERNAME", "somebody")
    monkeypatch.setenv("KDTALKER_ICE_SERVERS", '[{"urls": ["stun:stun.example.org"]}]')
    (server,) = Settings().ice_servers
    assert server.model_dump(exclude_none=True) == {"urls": ["stun:stun.example.org"]}


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"max_sessions": 0}, {"log_level": "loud"}, {"unknown": 1}, {"lost_after": -1}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_a_size_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_VIDEO_SIZE", "256")
    assert Settings().video_size == 256
    monkeypatch.setenv("KDTALKER_VIDEO_SIZE", "300")
    with pytest.raises(ValidationError, match="256, 384 or 512"):
        Settings()


def test_a_range_of_ports_is_written_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_UDP_PORTS", "50000-50099")
    assert Settings().udp_ports == (50_000, 50_099)


@pytest.mark.parametrize(
    "wrong",
    [
        {"udp_ports": "50000"},
        {"udp_ports": "50099-50000"},
        {"udp_ports": "0-9"},
        {"turn_urls": ("turn:a",)},
        {"advertise": "me"},
    ],
)
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
