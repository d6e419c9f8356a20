"""Checkpoints: a training's whole state in one safetensors file, written whole or not at all."""
