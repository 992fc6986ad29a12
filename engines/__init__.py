"""Speech and a portrait in, frames out: synchronous, NumPy at the border, no HTTP."""
