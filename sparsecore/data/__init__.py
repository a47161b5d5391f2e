"""Image data without torch: uint8 images of (height, width, channels), batches and augmentation by the engine's draws."""
