"""Where examples come from: digits, tfds, .npz files, folders of pictures; as uint8 arrays."""
