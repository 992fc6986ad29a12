"""An offer as Safari on iOS 17 writes it: its codecs, payload types, extensions and their order."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.peer import Peer

AUDIO = """\
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
{transport}
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a={direction}
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000"""
VIDEO = """\
m=video 9 UDP/TLS/RTP/SAVPF {types}
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
{transport}
a=mid:1
a=extmap:14 urn:ietf:params:rtp-hdrext:toffset
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:13 urn:3gpp:video-orientation
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay
a=extmap:6 http://www.webrtc.org/experiments/rtp-hdrext/video-content-type
a=extmap:7 http://www.webrtc.org/experiments/rtp-hdrext/video-timing
a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id
a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id
a=recvonly
a=rtcp-mux
a=rtcp-rsize"""
BASELINE = 98  # the payload type of what this server has of Safari's H.264
VP8 = 106
CODECS = (  # payload type, name, parameters; the next higher type is for retransmissions
    (96, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f"),
    (BASELINE, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    (100, "H264", "level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=640c1f"),
    (102, "H264", "level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f"),
    (104, "H265", "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"),
    (VP8, "VP8", ""),
    (108, "VP9", "profile-id=0"),
    (116, "VP9", "profile-id=2"),
    (118, "red", ""),
    (120, "ulpfec", ""),
)
FEEDBACK = ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")
TRANSPORT = re.compile(r"^a=(?:candidate|end-of-candidates|ice-ufrag|ice-pwd|fingerprint|setup)\b.*$", re.MULTILINE)


class Safari(Peer):
    """A peer whose offer reads as Safari's, `without` some of its codecs, or `changed` from one text to another."""

    def __init__(
        self, *given: Any, without: tuple[str, ...] = (), changed: tuple[str, str] = ("", ""), **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self._without, self._exchange = without, changed

    async def offer(self) -> str:
        return as_safari(await super().offer(), self._without).replace(*self._exchange)


def as_safari(offer: str, without: tuple[str, ...] = ()) -> str:
    """What Safari would have sent with the transports of aiortc's `offer`."""
    head, sound, pictures = re.split(r"^(?=m=)", offer.replace("\r\n", "\n"), flags=re.MULTILINE)
    session = re.search(r"^o=- (\d+)", head, re.MULTILINE)
    assert session is not None
    types: list[int] = []
    codecs: list[str] = []
    for kind, name, parameters in CODECS:
        if name in without:
            continue
        types.append(kind)
        codecs.append(f"a=rtpmap:{kind} {name}/90000")
        if name not in ("red", "ulpfec"):
            codecs += [f"a=rtcp-fb:{kind} {feedback}" for feedback in FEEDBACK]
        if parameters:
            codecs.append(f"a=fmtp:{kind} {parameters}")
        if name != "ulpfec":
            types.append(kind + 1)
            codecs += [f"a=rtpmap:{kind + 1} rtx/90000", f"a=fmtp:{kind + 1} apt={kind}"]

    def transport(section: str) -> str:
        return "\n".join(TRANSPORT.findall(section))

    lines = (
        f"v=0\no=- {session[1]} 2 IN IP4 127.0.0.1\ns=-\nt=0 0",
        "a=group:BUNDLE 0 1\na=extmap-allow-mixed\na=msid-semantic: WMS",
        AUDIO.format(transport=transport(sound), direction="sendrecv" if "a=sendrecv" in sound else "recvonly"),
        VIDEO.format(transport=transport(pictures), types=" ".join(map(str, types))),
        *codecs,
        "",
    )
    return "\n".join(lines).replace("\n", "\r\n")
