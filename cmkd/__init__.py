"""Cross-modality knowledge distillation from decoded to compressed video."""

__version__ = "0.1.0"
