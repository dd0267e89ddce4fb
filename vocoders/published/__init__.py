"""Published vocoder files: conversion of weights and configurations to ours and back."""

from vocoders.published.layout import from_published, to_published

__all__ = ["from_published", "to_published"]
