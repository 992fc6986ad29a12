"""Training of the embedded profile: keypoints, denoiser, evaluation. Needs torch; nothing here runs at serving time."""
