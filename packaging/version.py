"""Checks that a tag is of this version, and prints what the changelog says of it.

version.py TAG
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def version():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    version = manifest["workspace"]["package"]["version"]
    for crate in ["work_trace", "quant_kernels", "dense_kernels"]:
        wanted = manifest["dependencies"][crate]["version"]
        if wanted != version:
            sys.exit(f"Cargo.toml: quantpress {version} wants {crate} {wanted}; they are published together")
    return version


def changes(version):
    """The section of a version, without its heading."""
    text = (ROOT / "CHANGELOG.md").read_text()
    section = re.search(rf"^## \[{re.escape(version)}\].*\n(.*?)(?=^## \[|\Z)", text, re.M | re.S)
    if section is None:
        sys.exit(f"CHANGELOG.md has no section [{version}]")
    return section[1].strip()


if __name__ == "__main__":
    [tag] = sys.argv[1:]
    if tag != f"v{version()}":
        sys.exit(f"the tag is {tag}, and Cargo.toml has {version()}")
    print(changes(version()))
