"""Where numbers lie on the pixels of modulators and detectors, one file a layout."""
