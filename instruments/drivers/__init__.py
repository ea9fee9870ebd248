"""Drivers of real devices, one file each; listed in `registry`, loaded when a bench uses them."""
