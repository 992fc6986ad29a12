"""HTTP and WebRTC around the engines: sessions, clocks, tracks and encoders."""
