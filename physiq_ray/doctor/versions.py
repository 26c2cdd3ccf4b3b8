"""The installed versions of Python and of the packages that matter, and whether they fit together."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from physiq_ray.doctor.finding import Finding, State

CHECK = "version"
OURS = "physiq-ray"
PACKAGES = (OURS, "ray", "torch", "torchvision", "pyarrow", "boto3", "pillow")
PAIR = ("torch", "torchvision")  # each release of one goes with one release of the other


def check_versions() -> Iterator[Finding]:
    """Compare the installed versions with what physiq-ray and these packages require of each other."""
    versions: dict[str, str | None] = {}
    requirements: dict[str, Sequence[str]] = {}
    for name in PACKAGES:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            versions[name] = None
        else:
            versions[name], requirements[name] = found.version, found.requires or ()
    python = distribution(OURS).metadata["Requires-Python"]
    yield from compare_versions(platform.python_version(), python, versions, requirements)


def compare_versions(
    python: str,
    requires_python: str,
    versions: Mapping[str, str | None],
    requirements: Mapping[str, Sequence[str]],
) -> Iterator[Finding]:
    """Compare versions, None for a package that is not installed, with requirements by package."""
    fits = SpecifierSet(requires_python).contains(python, prereleases=True)
    yield Finding(
        *(CHECK, "python", State.OK if fits else State.WRONG),
        python if fits else f"{python}, but {OURS} requires {requires_python}",
        "" if fits else f"use a Python {requires_python}",
    )
    for name, version in versions.items():
        wanted = _specifiers(name, requirements)
        misfit = next(
            (
                f"{package} requires {specifiers}"
                for package, specifiers in wanted.items()
                if version is None or not specifiers.contains(version, prereleases=True)
            ),
            None,
        )
        if misfit is None:
            yield Finding(CHECK, name, State.OK, str(version))
        else:
            names = PAIR if name in PAIR else (name,)
            together = (f"'{one}{_specifiers(one, requirements).get(OURS, '')}'" for one in names)
            yield Finding(
                *(CHECK, name, State.WRONG, f"{version or 'not installed'}, but {misfit}"),
                f"pip install --upgrade {' '.join(together)}",
            )


def _specifiers(name: str, requirements: Mapping[str, Sequence[str]]) -> dict[str, SpecifierSet]:
    """Give the versions of a package that each package requires without an extra, by its name."""
    return {
        package: requirement.specifier
        for package, lines in requirements.items()
        for requirement in map(Requirement, lines)
        if canonicalize_name(requirement.name) == name
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    }
