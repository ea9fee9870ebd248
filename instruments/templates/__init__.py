"""Driver templates to copy, one file per kind of instrument; each works, on a device in memory."""
