"""Runs the commands of docs/distributed.md's jobs for Kubernetes and CI, each part as it stands there, and compares the
files with those of one process, or with feedback verifies them. Not part of the test run. (Slurm's job runs on a real
cluster: tests/slurm.sh.)

jobs.py QUANTPRESS

The test model is in the place of R1, and folders are in the place of the volume and of the hub.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
FIXTURE = ROOT / "fixtures" / "tiny-r1"


def commands(document):
    """Commands of the yaml blocks, each with what folds into its line."""
    for block in re.findall(r"^```yaml[^\n]*\n(.*?)^```", document, re.M | re.S):
        for found in re.finditer(r"^( +)(?:exec )?quantpress quantize .*\n(?:\1.*\n)*", block, re.M):
            yield " ".join(found[0].split())


def parts(command, folder):
    """Runs each part of a command, and gives how many there are."""
    count = int(re.search(r'--part .*?/(\d+)', command)[1])
    for place, here in [
        ("/data/DeepSeek-R1", FIXTURE),
        ("hf://deepseek-ai/DeepSeek-R1", FIXTURE),
        ("/data/R1-imatrix.gguf", FIXTURE / "imatrix.gguf"),
        ("--imatrix R1-imatrix.gguf", f"--imatrix {FIXTURE / 'imatrix.gguf'}"),
        ("/data/text.txt", FIXTURE / "calibration.txt"),
        ("--chunks 200", "--chunks 8"),
        ("/data/states", f"{folder}/states"),
        ("/data/out/", f"{folder}/"),
        ("hf://YOUR-NAME/DeepSeek-R1-GGUF/", f"{folder}/"),
        (" --drop", ""),  # which only uploads have
    ]:
        command = command.replace(f"{place}", f"{here}")
    for index in range(count):
        line = command.replace("${{ matrix.part }}", str(index + 1))
        subprocess.run(["sh", "-c", line], check=True, env=os.environ | {"JOB_COMPLETION_INDEX": str(index)},
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return count


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    found = list(commands((ROOT / "docs" / "distributed.md").read_text()))
    if len(found) != 3:
        sys.exit(f"three jobs are expected: {found}")
    for command in found:
        with tempfile.TemporaryDirectory() as apart, tempfile.TemporaryDirectory() as together:
            count = parts(command, apart)
            if "--feedback" in command:
                # Each part is a file of its own; all of them are sound, and of one work.
                first = f"{apart}/R1-00001-of-{count:05}.gguf"
                subprocess.run([program, "verify", first, "--against", FIXTURE], check=True, stdout=subprocess.DEVNULL)
                print(f"{count} parts, verified: {command}")
                continue
            subprocess.run([program, "quantize", FIXTURE, "-o", f"{together}/R1.gguf", "--imatrix", FIXTURE / "imatrix.gguf",
                            "--split", str(count), "--quiet"], check=True, stdout=subprocess.DEVNULL)
            files = sorted(os.listdir(together))
            if files != sorted(os.listdir(apart)):
                sys.exit(f"{command}: {sorted(os.listdir(apart))}, and {files} by one process")
            for file in files:
                if pathlib.Path(apart, file).read_bytes() != pathlib.Path(together, file).read_bytes():
                    sys.exit(f"{command}: {file} is another than one process makes")
            print(f"{count} parts, {len(files)} files are the same as by one process: {command}")


if __name__ == "__main__":
    main()
