"""Data sets as `(inputs, targets)` tensors in memory, and what is done to them before training.

This page is the table of contents. Checkpoints name the factories here, so they are imported at
once. Networks are in `models`; what changes images from step to step is in `augment`.
"""

from __future__ import annotations

from landscape.trainers.data.bundled import TEXT_VOCABULARY, digits, text
from landscape.trainers.data.catalogue import DataInfo, describe, examples
from landscape.trainers.data.image_files import cifar10, cifar100, fashion_mnist, mnist
from landscape.trainers.data.label_noise import NoisyLabels, noisy_labels
from landscape.trainers.data.multi_view import MultiView, multi_view, single_feature_sets, ticks
from landscape.trainers.data.prototypes import PrototypeExamples, prototype_examples, prototypes
from landscape.trainers.data.shapes import SHAPES, Shape
from landscape.trainers.data.splits import stratified_split, subset_masks

__all__ = [
    "SHAPES",
    "TEXT_VOCABULARY",
    "DataInfo",
    "MultiView",
    "NoisyLabels",
    "PrototypeExamples",
    "Shape",
    "cifar10",
    "cifar100",
    "describe",
    "digits",
    "examples",
    "fashion_mnist",
    "mnist",
    "multi_view",
    "noisy_labels",
    "prototype_examples",
    "prototypes",
    "single_feature_sets",
    "stratified_split",
    "subset_masks",
    "text",
    "ticks",
]
