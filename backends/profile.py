"""`OpticsProfile`: the constants of a bench, validated, each with its source.

A profile holds only numbers. `backends.mock` applies them to light, `lightloom.scheduler.costs` to
time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..instruments import InputError
from ..instruments.registry import first_complaint
from ..instruments.text import short_lines
from ..instruments.toml_file import TomlTable, parse_toml, read_toml

FOLDER = Path(__file__).parent / "profiles"
DEFAULT = "slm-camera"
LIGHT_WAYS = ("photons_full_scale", "photons_per_mac", "photons_entering_per_mac")

Bits = Annotated[int, Field(ge=1, le=32)]
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Range = Annotated[float, Field(ge=1e-30, le=1e30)]  # smaller ranges have steps beyond float32
NonNegative = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**40, strict=True)]


class OpticsProfile(TomlTable):
    """The properties of a bench that determine a matrix product; None means ideal, or unlimited.

    The formulas are those of docs/explanation/light.md. A converter (`readout_bits`) without a
    `readout_range` has one range per output row. Units are SI and in the names.

    Raises
    ------
    InputError : for an unknown field, a value out of its range, or contradictory fields
    """

    name: str = "custom"
    title: str = ""
    sources: Mapping[str, str] = Field(default_factory=dict, repr=False)
    years: Mapping[str, int] = Field(default_factory=dict, repr=False)

    # resolution of the modulators and of the converter
    input_bits: Bits | None = None
    weight_bits: Bits | None = None
    readout_bits: Bits | None = None
    readout_range: Range | Literal["per-matmul", "per-row", "ideal"] | None = None
    encoding: Literal["push-pull", "abs-split", "offset"] = "abs-split"
    weight_scale: Literal["row", "matrix"] = "row"
    detection: Literal["balanced", "per-reading"] = "balanced"

    # light level, in one of these ways
    photons_full_scale: Positive | None = None
    photons_per_mac: Positive | None = None
    photons_entering_per_mac: Positive | None = None

    # the detector, in electrons
    read_noise_e: NonNegative | None = None
    dark_e: NonNegative | None = None
    dark_frames: Count | None = None
    full_well_e: Positive | None = None
    quantum_efficiency: Share | None = None

    # imperfections of light and modulators
    extinction_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    extinction_model: Literal["leak", "clamp"] = "leak"
    gain_rms: Annotated[float, Field(ge=0, lt=1)] | None = None
    crosstalk: Annotated[float, Field(ge=0, lt=1)] | None = None
    lut_rms: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    source_rms: Annotated[float, Field(ge=0, lt=1)] | None = None
    drift_rms: Annotated[float, Field(ge=0, lt=0.2)] | None = None
    drift_rows: Positive = 1e4
    device_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    # geometry of one weight frame, in modulator rows and elements
    rows: Count | None = None
    length: Count | None = None
    vectors: Count = 1
    wavelength_m: Positive | None = None

    # timing of one shot and of one new weight frame
    input_refresh_s: NonNegative = 0.0
    input_settle_s: NonNegative = 0.0
    weight_refresh_s: NonNegative = 0.0
    weight_settle_s: NonNegative = 0.0
    exposure_s: NonNegative = 0.0
    readout_s: NonNegative = 0.0
    dac_samples_per_s: Positive | None = None
    adc_samples_per_s: Positive | None = None
    host_operations_per_s: Positive = 2e10
    host_bytes_per_s: Positive = 1e10
    host_value_bytes: Count = 4

    # for the account of energy (lightloom.scheduler.energy.constants says what each is)
    dac_j: Positive | None = None
    adc_j: Positive | None = None
    amplifier_j: Positive | None = None
    modulator_j: Positive | None = None
    memory_access_j: Positive | None = None
    optical_throughput: Share | None = None
    source_efficiency: Share | None = None
    hold_power_w: NonNegative | None = None
    detector_power_w: NonNegative | None = None
    host_operation_j: Positive | None = None
    host_mac_j: Positive | None = None
    host_byte_j: Positive | None = None
    host_idle_power_w: NonNegative | None = None

    def __init__(self, **fields: Any) -> None:
        if fields.get("readout_bits") is not None and fields.get("readout_range") is None:
            fields["readout_range"] = "per-row"  # a converter has a range
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError(_one_sentence(fields.get("name", "custom"), error)) from None

    def __repr__(self) -> str:
        light = [f"{way} = {getattr(self, way)}" for way in LIGHT_WAYS if getattr(self, way)]
        given = sum(value is not None for value in vars(self).values())
        return short_lines(
            f"OpticsProfile {self.name}{self.title and f': {self.title}'}",
            f"  bits: input {self.input_bits}, weight {self.weight_bits}, read-out "
            f"{self.readout_bits}; encoding {self.encoding}, detection {self.detection}",
            f"  light: {light[0] if light else 'without shot noise'}",
            f"  frame: rows {self.rows}, length {self.length}, vectors {self.vectors}; "
            f"all {given} fields that are set: model_dump()",
        )

    __str__ = __repr__

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [way for way in LIGHT_WAYS if getattr(self, way) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one")
        if not self.has_light:
            for field in ("read_noise_e", "dark_e", "full_well_e"):
                if getattr(self, field):
                    raise ValueError(
                        f"{field} = {getattr(self, field):g} counts electrons and needs a light "
                        f"level: give {' or '.join(LIGHT_WAYS)}"
                    )
        physical_rails = 1 if self.encoding == "offset" else 2
        if self.rows is not None and self.rows < physical_rails:
            raise ValueError(
                f"rows = {self.rows} cannot hold one output of {physical_rails} rails "
                f"({self.encoding}); give at least {physical_rails}"
            )
        if self.length is not None and self.length < self.elements_per_input:
            raise ValueError(
                f"length = {self.length} cannot hold x+ and x- side by side (balanced detection); "
                "give at least 2"
            )
        return self

    @property
    def has_light(self) -> bool:
        """Whether light is counted in photons (otherwise there is no shot noise)."""
        return any(getattr(self, way) is not None for way in LIGHT_WAYS)

    @property
    def rails(self) -> int:
        """The modulator rows of one output: two for signed weights, one for offset."""
        return 1 if self.encoding == "offset" else 2

    @property
    def elements_per_input(self) -> int:
        """The modulator elements of one input: x+ and x- side by side when balanced."""
        return 2 if self.detection == "balanced" and self.encoding != "offset" else 1

    def exposures(self, non_negative: bool) -> int:
        """Return the exposures that one shot needs for its input vectors."""
        signed = self.encoding != "offset" and not non_negative
        return 2 if self.detection == "per-reading" and signed else 1

    def readings(self, non_negative: bool) -> int:
        """Return the readings per output: one detector in one exposure each."""
        return self.rails * self.exposures(non_negative)

    def conversions(self, non_negative: bool) -> int:
        """Return the converter samples per output and segment (docs/explanation/light.md: n_c)."""
        if self.detection == "balanced":
            return 1
        return self.readings(non_negative)

    @property
    def unphysical(self) -> tuple[str, ...]:
        """The remarks on unphysical settings, to be shown with every result."""
        if self.readout_range == "ideal":
            return ("read-out auto-ranged on the noise-free value (unphysical, for comparison)",)
        return ()

    def with_settings(self, settings: Mapping[str, Any]) -> "OpticsProfile":
        """Return the profile with some fields replaced; a light level replaces another kind.

        Raises
        ------
        InputError : for an unknown field or a value out of range
        """
        fields = self.model_dump(exclude={"sources"})
        fields.update(settings)
        fields["years"] = {k: year for k, year in self.years.items() if k not in settings}
        if any(settings.get(way) is not None for way in LIGHT_WAYS):
            fields.update({way: settings.get(way) for way in LIGHT_WAYS})
        if not any(fields[way] for way in LIGHT_WAYS):
            for field in ("read_noise_e", "dark_e", "full_well_e"):
                if field not in settings:  # electrons have no meaning without a light level
                    fields[field] = None
        sources = dict(self.sources) | dict.fromkeys(settings, "set by the user")
        return OpticsProfile(**fields, sources=sources)


_WORDS = frozenset({"name", "title", "sources", "years"})


def profile_names() -> list[str]:
    """Return the names of the profiles in lightloom."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str = DEFAULT) -> OpticsProfile:
    """Read a profile by name, or from a TOML file of the same form.

    Raises
    ------
    InputError : for an unknown name, an unreadable file, or a constant without a source
    """
    path = FOLDER / f"{name}.toml"
    if name.endswith(".toml"):
        path = Path(name)
    elif name not in profile_names():
        raise InputError(f"unknown profile {name!r}; choose from {', '.join(profile_names())}")
    document = read_toml(path, "profile")
    constants = document.get("constants")
    surplus = document.keys() - {"title", "constants"}
    if surplus or not isinstance(constants, dict):
        raise InputError(
            f"{path}: a profile holds a title and a table [constants], "
            f"not {', '.join(sorted(surplus)) or 'a file without constants'}"
        )
    for key, constant in constants.items():
        if not isinstance(constant, dict) or set(constant) - {"year"} != {"value", "source"}:
            raise InputError(
                f"{path}: constants.{key} needs a value and a source, and may have a year"
            )
        if not isinstance(constant["source"], str) or not constant["source"].strip():
            raise InputError(f"{path}: constants.{key} has no source; name one")
        if key not in OpticsProfile.model_fields or key in _WORDS:
            raise InputError(f"{path}: constants.{key} is not a constant of a profile; remove it")
    return OpticsProfile(
        name=path.stem if path.parent == FOLDER else str(path),
        title=document.get("title", ""),
        sources={key: constant["source"] for key, constant in constants.items()},
        years={key: c["year"] for key, c in constants.items() if "year" in c},
        **{key: constant["value"] for key, constant in constants.items()},
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """Read one `KEY=VALUE` of the command line; the value is a TOML value, or a bare word.

    Raises
    ------
    InputError : when the text has no '=' or the key is not a field of a profile
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator:
        raise InputError(f"--set {text!r} is not KEY=VALUE; give for example --set input_bits=8")
    if key not in OpticsProfile.model_fields or key in _WORDS:
        raise InputError(
            f"--set {key!r} is not a field of a profile; they are listed by: "
            f"lightloom doctor --profile {DEFAULT}"
        )
    if "\n" in value:
        raise InputError(f"--set {key}: the value has more than one line; give one --set per field")
    word = value.strip().lower()
    if word == "none" or (word == "ideal" and key != "readout_range"):
        return key, None
    try:
        return key, parse_toml(f"value = {value}")["value"]
    except ValueError:
        return key, value.strip()


def _one_sentence(name: object, error: ValidationError) -> str:
    """Return the first error of pydantic as one sentence that names field and value."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return f"profile {name!r}: unknown field {str(first['loc'][0])!r}"
    return f"profile {name!r}: {first_complaint(error)}"
