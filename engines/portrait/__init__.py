"""From the bytes of a photo to a checked, cut portrait; enrolled identities on disk."""
