"""Image sets unlike photographs, made of what packages hold, for race.py: `python benchmarks/domains.py DIR`.

DIR/{digits,letters,speech,emoji}/{train,test}/CLASS/*.png. Digits are scikit-learn's. Letters have accents; they are of
the fonts that fontconfig lists, and those of the test are of other families. Speech is what espeak-ng says in its
voices, as spectrograms. Emoji are those of npm's emoji-datasource-twitter by category (--emoji: where it was unpacked).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import unicodedata
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

Rows = Iterator[tuple[str, str, Image.Image]]  # split, class, image
ACCENTED = [c for c in map(chr, range(0xC0, 0x180)) if len(unicodedata.normalize("NFD", c)) == 2][:120]
WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"] + (
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
)
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")


def digits() -> Rows:
    known = load_digits()
    for i, (pixels, name) in enumerate(zip(known.images, known.target, strict=True)):
        image = Image.fromarray((255 - 15.9 * pixels).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        yield split(i), str(name), image


def letters() -> Rows:
    fonts = dict(line.rsplit(": ", 1)[::-1] for line in _said("fc-list", ":lang=ro", "file", "family").splitlines())
    for i, family in enumerate(sorted(fonts)):
        font = ImageFont.truetype(fonts[family], 56)
        for letter in ACCENTED:
            image = Image.new("L", (96, 96), 255)
            ImageDraw.Draw(image).text((48, 52), letter, 0, font, anchor="mm")
            yield split(i), f"{ord(letter):04x}", image


def speech() -> Rows:
    """A third of the speakers is in the test alone. Loudness over 1 s, and up to 8 kHz."""
    listed = [line.split()[4].removeprefix("!v/") for line in _said("espeak-ng", "--voices=variant").splitlines()[1:]]
    for i, speaker in enumerate(sorted(listed)):
        for word in WORDS:
            voice = f"{ACCENTS[i % len(ACCENTS)]}+{speaker}"
            done = subprocess.run(["espeak-ng", "--stdout", "-v", voice, word], capture_output=True, check=True)
            with wave.open(io.BytesIO(done.stdout)) as sound:
                heard = np.frombuffer(sound.readframes(sound.getframerate()), np.int16).astype(float)
            heard = np.pad(heard, (0, 22_050 - len(heard)))
            frames = np.lib.stride_tricks.sliding_window_view(heard, 512)[::110] * np.hanning(512)
            loud = 20 * np.log10(np.abs(np.fft.rfft(frames)).T[::-1][-186:] + 1)
            image = Image.fromarray((255 * np.clip(loud / 120, 0, 1)).astype(np.uint8))
            yield split(i), word, image.resize((192, 96))


def emoji(folder: Path) -> Rows:
    known = json.loads((folder / "emoji.json").read_text())
    seen: Counter[str] = Counter()
    for one in known:
        file, name = folder / "img" / "twitter" / "64" / one["image"], one["category"]
        if file.is_file() and name != "Component":
            seen[name] += 1
            drawn = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            yield split(seen[name]), name.replace(" & ", "_"), Image.alpha_composite(white, drawn).convert("RGB")


def split(i: int) -> str:
    return "test" if i % 3 == 0 else "train"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--emoji", type=Path, help="folder of the unpacked package; without it there are no emoji")
    words = parser.parse_args()
    sets = {"digits": digits(), "letters": letters(), "speech": speech()}
    for data, rows in (sets | ({"emoji": emoji(words.emoji)} if words.emoji else {})).items():
        count: Counter[str] = Counter()
        for part, name, image in rows:
            place = words.folder / data / part / name
            place.mkdir(parents=True, exist_ok=True)
            count[part] += 1
            image.save(place / f"{count[part]:05}.png")
        print(f"{data}: {dict(count)}")


if __name__ == "__main__":
    main()
