"""`OpticsProfile`: the constants of a bench, validated, each with its source.

A profile holds only numbers. `backends.mock` applies them to light, `lightloom.scheduler.costs` to
time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..instruments import InputError
from ..instruments.file_keys import nearest_key
from ..instruments.registry import first_complaint
from ..instruments.text import short_lines
from ..instruments.toml_file import TomlTable, parse_toml, read_toml
from .bench_twin.arrays import TwinTable, read_arrays

FOLDER = Path(__file__).parent / "profiles"
DEFAULT = "slm-camera"
SCHEMA = 1  # of a file
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
    """Name of the profile: that of its file."""
    title: str = ""
    """One line that says which bench it is."""
    sources: Mapping[str, str] = Field(default_factory=dict, repr=False)
    """Source of the value of each constant."""
    years: Mapping[str, int] = Field(default_factory=dict, repr=False)
    """Year of the source of each constant."""

    # resolution of the modulators and of the converter
    input_bits: Bits | None = None
    """Resolution of the input modulator."""
    weight_bits: Bits | None = None
    """Resolution of the weight modulator."""
    readout_bits: Bits | None = None
    """Resolution of the converter."""
    readout_range: Range | Literal["per-matmul", "per-row", "ideal"] | None = None
    """Range of the converter: a sum of normalised products, or how a calibration pass chooses it.

    There is one range per product ("per-matmul") or per output row ("per-row"). "ideal" follows the
    noise-free value, which no bench can do. A converter without this key has "per-row".
    """
    encoding: Literal["push-pull", "abs-split", "offset"] = "abs-split"
    """How signed numbers become light."""
    weight_scale: Literal["row", "matrix"] = "row"
    """Whether each row of a weight matrix has its own scale, or the whole matrix has one."""
    detection: Literal["balanced", "per-reading"] = "balanced"
    """Whether two detectors subtract their light before one conversion, or each reading has one."""

    # light level, in one of these ways
    photons_full_scale: Positive | None = None
    """Photoelectrons that one element pair at full transmission adds to a reading, on average."""
    photons_per_mac: Positive | None = None
    """Photoelectrons per MAC: the light of each input row is set so that this many are detected."""
    photons_entering_per_mac: Positive | None = None
    """Photons per element that enter the weights; how much the weights pass does not matter."""

    # the detector, in electrons
    read_noise_e: NonNegative | None = None
    """Read noise of one reading, rms."""
    dark_e: NonNegative | None = None
    """Mean dark electrons of one detector in one reading."""
    dark_frames: Count | None = None
    """Number of dark frames whose mean is subtracted; without it the dark level is exact."""
    full_well_e: Positive | None = None
    """Electrons at which a detector is full."""
    quantum_efficiency: Share | None = None
    """Photoelectrons per photon at the detector."""

    # imperfections of light and modulators
    extinction_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """Brightest light of a modulator over its darkest light."""
    extinction_model: Literal["leak", "clamp"] = "leak"
    """How black is shown.

    Under "leak" it passes the darkest light. Under "clamp" it passes nothing, and greys below the
    darkest light are raised to it.
    """
    gain_rms: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Relative deviation of the gains of weight elements, rms: a fixed Gaussian pattern."""
    crosstalk: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of the light of a modulator row that falls on its two neighbours in the frame."""
    lut_rms: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Smooth deviation of the response curves of both modulators from a straight line, rms."""
    source_rms: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Relative fluctuation of the source from exposure to exposure, rms."""
    drift_rms: Annotated[float, Field(ge=0, lt=0.2)] | None = None
    """Relative slow drift of the source, rms: one factor for all outputs of an input row."""
    drift_rows: Positive = 1e4
    """Input rows of the slow drift: after about half of them the drift has another value."""
    device_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of the imperfections, which belong to the device and not to the run."""

    # the twin of a bench (`lightloom twin`)
    twin: TwinTable | None = None
    """Calibration whose slots, curves and leaks products have; see docs/how-to/twin.md."""
    corrections: Literal["on", "off"] = "on"
    """Whether a twin's products are corrected by its calibration, as `corrections` of a bench."""
    gain_error: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Relative error of an element's gain that calibration leaves, rms (twins only)."""
    curve_error: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Error of response curves that calibration leaves, over full scale, rms (twins only)."""
    light_error: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Relative error of the brightness of a shot after its correction, rms (twins only).

    With `corrections = "off"`, products have `source_rms` and `drift_rms` instead.
    """

    # geometry of one weight frame, in modulator rows and elements
    rows: Count | None = None
    """Modulator rows of one weight frame: outputs times rails."""
    length: Count | None = None
    """Elements of one modulator row."""
    vectors: Count = 1
    """Input vectors that one shot shows side by side."""
    wavelength_m: Positive | None = None
    """Wavelength of the light."""

    # timing of one shot and of one new weight frame
    input_refresh_s: NonNegative = 0.0
    """Refresh period of the input modulator."""
    input_settle_s: NonNegative = 0.0
    """Settling time of the input modulator."""
    weight_refresh_s: NonNegative = 0.0
    """Refresh period of the weight modulator."""
    weight_settle_s: NonNegative = 0.0
    """Settling time of the weight modulator."""
    exposure_s: NonNegative = 0.0
    """Exposure of one shot."""
    readout_s: NonNegative = 0.0
    """Read-out time of one shot."""
    dac_samples_per_s: Positive | None = None
    """Samples of all digital-to-analogue converters; without it they work within the shot."""
    adc_samples_per_s: Positive | None = None
    """Samples of all analogue-to-digital converters; without it they work within the shot."""
    host_operations_per_s: Positive = 2e10
    """Operations of the host beside the bench."""
    host_bytes_per_s: Positive = 1e10
    """Memory traffic of the host beside the bench."""
    host_value_bytes: Count = 4
    """Bytes of one value in a host step."""

    # for the account of energy (lightloom.scheduler.energy.constants has their limits)
    dac_j: Positive | None = None
    """Energy of one sample of a digital-to-analogue converter."""
    adc_j: Positive | None = None
    """Energy of one sample of an analogue-to-digital converter."""
    amplifier_j: Positive | None = None
    """Energy of one sample of a detector's amplifier."""
    modulator_j: Positive | None = None
    """Energy of one sample shown by a modulator."""
    memory_access_j: Positive | None = None
    """Energy of one operand value read or written beside the bench."""
    optical_throughput: Share | None = None
    """Fraction of the source's light that passes fully open modulators."""
    source_efficiency: Share | None = None
    """Light per electrical power of the source."""
    hold_power_w: NonNegative | None = None
    """Power of modulators that hold their frames."""
    detector_power_w: NonNegative | None = None
    """Power of detectors, beyond their samples."""
    host_operation_j: Positive | None = None
    """Energy of one operation of a host step."""
    host_mac_j: Positive | None = None
    """Energy of one MAC of a product that stays on the host."""
    host_byte_j: Positive | None = None
    """Energy of one byte moved by a host step."""
    host_idle_power_w: NonNegative | None = None
    """Power of the host while it waits for light."""

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
        self._check_twin()
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

    def _check_twin(self) -> None:
        if self.twin is None:
            for field in _TWINS_ONLY:
                if getattr(self, field) not in (None, "on"):
                    raise ValueError(f"{field} is for the twin of a bench; see `lightloom twin`")
            return
        if self.photons_full_scale is None or self.detection != "per-reading":
            raise ValueError(
                'a twin has the light of its bench: photons_full_scale, detection = "per-reading"'
            )
        for field in _NOT_OF_TWINS:
            if getattr(self, field) != OpticsProfile.model_fields[field].default:
                raise ValueError(f"{field} cannot be set: a twin has what its calibration measured")

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
        fixed = sorted(settings.keys() & _MEASURED) if self.twin else []
        if fixed:
            raise InputError(
                f"profile {self.name!r}: {fixed[0]} cannot be set: a twin has what its calibration "
                "measured"
            )
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


_WORDS = frozenset({"name", "title", "sources", "years", "twin"})
_TWINS_ONLY = ("corrections", "gain_error", "curve_error", "light_error")
_MEASURED = {"input_bits", "weight_bits", "rows", "length", "detection"}  # by calibrations of twins
_NOT_OF_TWINS = (
    *("readout_bits", "readout_range", "weight_scale", "dark_frames", "full_well_e"),
    *("extinction_ratio", "extinction_model", "gain_rms", "crosstalk", "lut_rms", "vectors"),
)  # what a twin has from its arrays, or has not


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
    if name.lower().endswith(".toml"):
        path = Path(name)
    elif name not in profile_names():
        raise InputError(f"unknown profile {name!r}; choose from {', '.join(profile_names())}")
    document = read_toml(path, "profile")
    constants = document.get("constants")
    twin = _twin_table(path, document)
    surplus = document.keys() - {"title", "constants", "schema", "twin"}
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
        twin=twin,
        sources={key: constant["source"] for key, constant in constants.items()},
        years={key: c["year"] for key, c in constants.items() if "year" in c},
        **{key: constant["value"] for key, constant in constants.items()},
    )


def _twin_table(path: Path, document: Mapping[str, Any]) -> TwinTable | None:
    """Return the table `[twin]` of a profile, once its arrays were read; None without one."""
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise InputError(
            f"{path}: schema = {schema!r} of this profile is not {SCHEMA}, the only one that this "
            "version of lightloom reads; update lightloom, or write the profile again"
        )
    if "twin" not in document:
        return None
    try:
        table = TwinTable.model_validate(document["twin"])
    except ValidationError as error:
        raise InputError(f"{path}: twin: {first_complaint(error, TwinTable)}") from None
    file = Path(table.file)
    if file.name != table.file:
        raise InputError(
            f"{path}: twin.file = {table.file!r} is not the name of a file beside the profile"
        )
    table = table.model_copy(update={"file": str(path.absolute().parent / file)})
    read_arrays(table)
    return table


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
        nearest = nearest_key(OpticsProfile, first["loc"])
        hint = f"; the nearest field is {nearest!r}" if nearest else ""
        return f"profile {name!r}: unknown field {str(first['loc'][0])!r}{hint}"
    return f"profile {name!r}: {first_complaint(error, OpticsProfile)}"
