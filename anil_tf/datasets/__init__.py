"""Where classes of images come from: TFDS, folders, arrays and the project's own glyphs."""
