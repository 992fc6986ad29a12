"""The suite: a real server, real peers, a real browser."""
