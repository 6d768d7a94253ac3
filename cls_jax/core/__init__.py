"""What a method may import: types, errors, losses, memories, sync, augmentation, metrics."""
