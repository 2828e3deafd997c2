"""Fills the template of the Homebrew formula.

formula.py VERSION REPOSITORY SHA256SUMS

REPOSITORY is the address of the project's repository, whose releases have the archives; SHA256SUMS lists their
digests. Prints the formula.
"""

import pathlib
import re
import sys

TEMPLATE = pathlib.Path(__file__).parent / "quantpress.rb.in"


def filled(version, repository, sums):
    """The formula.

    A name that is not in the sums is an error.
    """
    digests = dict(reversed(line.split()) for line in sums.splitlines())

    def value(field):
        name, _, archive = field[1].partition(" ")
        if name == "sha256":
            return digests[archive.replace("VERSION", version)]
        return {"version": version, "repository": repository}[name]

    return re.sub(r"@([^@]+)@", value, TEMPLATE.read_text())


if __name__ == "__main__":
    version, repository, sums = sys.argv[1:]
    print(filled(version, repository, pathlib.Path(sums).read_text()), end="")
