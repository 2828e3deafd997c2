"""Packs a program into the archive of a release.

archive.py PROGRAM TARGET FOLDER

The archive has the program, README, changes and licence, and what the program says of itself: manual pages and
completions. So the program runs here. The same program gives the same bytes. Prints the archive's path.
"""

import argparse
import gzip
import io
import pathlib
import subprocess
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
COMPLETIONS = {
    "bash": "quantpress.bash",
    "zsh": "_quantpress",
    "fish": "quantpress.fish",
    "elvish": "quantpress.elv",
    "powershell": "_quantpress.ps1",
}


def stem(version, target):
    """The archive's name without its end, and the name of the folder in it."""
    return f"quantpress-v{version}-{target}"


def end(target):
    return ".zip" if "windows" in target else ".tar.gz"


def output(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE).stdout


def contents(program):
    """Names in the archive's folder, and their bytes."""
    files = {program.name: program.read_bytes()}
    for name in ["README.md", "CHANGELOG.md", "LICENSE"]:
        files[name] = (ROOT / name).read_bytes()
    for shell, name in COMPLETIONS.items():
        files[f"completions/{name}"] = output(program, "completions", shell)
    with tempfile.TemporaryDirectory() as folder:
        output(program, "man", folder)
        for page in pathlib.Path(folder).iterdir():
            files[f"man/{page.name}"] = page.read_bytes()
    return dict(sorted(files.items()))


def tar(files, folder, program):
    archive = io.BytesIO()
    with gzip.GzipFile(fileobj=archive, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(data), 0o755 if name == program else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def zipped(files, folder):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zip:
        for name, data in files.items():
            zip.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("target")
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()

    program = options.program.resolve()
    version = output(program, "--version").decode().split()[1]
    folder = stem(version, options.target)
    files = contents(program)
    archive = zipped(files, folder) if end(options.target) == ".zip" else tar(files, folder, program.name)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / (folder + end(options.target))
    path.write_bytes(archive)
    print(path)


if __name__ == "__main__":
    main()
