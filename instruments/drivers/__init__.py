"""Drivers of real devices, one file each; named in `registry`, loaded when a bench uses them."""
