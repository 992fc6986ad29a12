"""The embedded renderer: the person's own pixels, warped by the keypoints, with mouth and lids as layers."""
