"""The version of lightloom, which every file that it writes names, and those of other packages."""

VERSION = "0.1.0"


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    from importlib import metadata  # only here, since every start would load it

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
