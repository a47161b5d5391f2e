"""Image data without torch: uint8 images of (height, width, channels), and batches by the engine's own draws."""
