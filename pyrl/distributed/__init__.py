"""Collecting by several workers: the roles, as plain classes, and the engines that run them (docs/scale.md)."""
