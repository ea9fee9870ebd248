"""What CI checks, as sessions that run on any system: `nox --list`, then `nox -s NAME`.

Each session installs lightloom as a user does, and never runs the files of the checkout itself.
What follows `--` goes to the program of the session: `nox -s tests -- -m slow`.
"""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
WHEEL = "LIGHTLOOM_WHEEL"  # a wheel to install, where several sessions share one that was built
TORCH = os.environ.get("LIGHTLOOM_TORCH", "torch>=2.6")  # such as a build for processors only
DIST = ROOT / "dist"
MADE = re.compile(r"^PKG-INFO$|^setup\.cfg$|\.egg-info/")  # by setuptools, in an sdist

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["style", "types", "docs", "tests"]


def install(session: nox.Session, *extras: str) -> None:
    """Install lightloom with extras, from the wheel in LIGHTLOOM_WHEEL or from the checkout."""
    package = os.environ.get(WHEEL, str(ROOT))
    session.install(f"{package}[{','.join(extras)}]" if extras else package)


@nox.session
def style(session: nox.Session) -> None:
    """Check the style of all Python files."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of what was installed, from an empty folder."""
    install(session, "test")
    session.chdir(session.create_tmp())
    arguments = ("--config-file", str(ROOT / "pyproject.toml"), "-p", "lightloom", *session.posargs)
    output = session.run("mypy", *arguments, silent=True)
    code = "import lightloom; print(lightloom.__path__[0])"
    package = session.run("python", "-c", code, silent=True)
    if output is None or package is None:  # nox --install-only
        return
    session.log(output.strip())
    modules = len(list(Path(package.strip()).rglob("*.py")))
    checked = re.search(r"no issues found in (\d+) source files", output)
    if checked is None or int(checked[1]) < modules:
        session.error(f"mypy has to check all {modules} modules of lightloom")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests without the extra fast; arguments go to pytest."""
    install(session, "test")
    session.install("sinstruments")  # GPL: a server beside the tests, not a part of lightloom
    session.run("pytest", *session.posargs)


@nox.session
def fast(session: nox.Session) -> None:
    """Run the tests with the extra fast; --cov also shows the coverage of each room."""
    install(session, "test", "fast", "slmsuite", "docs")  # docs: some tests read the extensions
    try:
        session.run("pytest", *session.posargs)
    finally:
        if "--cov" in session.posargs:
            data = os.environ.get("COVERAGE_FILE", ".coverage")
            session.run("python", "-P", ".ci/coverage_by_room", data)


@nox.session
def torch(session: nox.Session) -> None:
    """Run the tests of models from PyTorch, slow ones, too."""
    session.install(TORCH)
    install(session, "test", "fast", "torch")
    session.install("accelerate")  # with it, transformers reads the GGUF of a test
    session.run("pytest", "-m", "with_torch and not campaign", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into build/site; a warning is an error."""
    install(session, "docs")
    options = ("-W", "--keep-going", "-n", "-b", "html", *session.posargs)
    session.run("python", "-P", "-m", "sphinx", *options, "docs", "build/site")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel into dist, check what they hold, and run the wheel alone."""
    folder = Path(session.create_tmp())
    session.install("build")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST), silent=True)
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), silent=True)
    [sdist], [built] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    known, packed = tracked(), names_of(sdist)
    if missing := known - packed:
        session.error(f"the sdist lacks {', '.join(sorted(missing))}; add them to MANIFEST.in")
    if strays := {name for name in packed - known if not MADE.search(name)}:
        session.error(f"the sdist holds {', '.join(sorted(strays))}; commit or remove them")
    if other := contents(built) ^ contents(folder / built.name):
        names = ", ".join(sorted({name for name, _ in other}))
        session.error(f"the wheels of sdist and checkout differ in {names}; see MANIFEST.in")
    session.run("python", "-m", "pip", "uninstall", "-y", "build", "packaging", "pyproject_hooks")
    session.install(str(built))
    session.chdir(folder)
    session.run("lightloom", "run")


def tracked() -> set[str]:
    """Return the files that git knows; outside a clone, those of the sdist."""
    if not (ROOT / ".git").exists():
        return names_of(next(DIST.glob("*.tar.gz")))
    command = ["git", "ls-files", "-z"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return {name for name in output.decode().split("\0") if name and (ROOT / name).exists()}


def names_of(sdist: Path) -> set[str]:
    """Return the names of an sdist's files, without the folder that holds them all."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def contents(built: Path) -> set[tuple[str, int]]:
    """Return name and checksum (CRC-32) of each file of a wheel."""
    with zipfile.ZipFile(built) as archive:
        return {(info.filename, info.CRC) for info in archive.infolist()}


@nox.session
def robustness(session: nox.Session) -> None:
    """Run a campaign, such as `-- fuzz --inputs 100000`; without arguments, a few of each."""
    install(session, "test")
    small = ("fuzz --inputs 2000", "faults --faults 50", "crashes --kills 3")
    campaigns = [session.posargs] if session.posargs else [text.split() for text in small]
    for arguments in campaigns:
        session.run("python", "tests/robustness", *arguments)
