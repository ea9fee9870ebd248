"""The version of lightloom, which every file that it writes names."""

VERSION = "0.1.0"
