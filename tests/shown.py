"""The commands that README, docs and how-to pages show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = ("tutelage ", "scripts/", "python ", "pytest ", "pip ")
PLACEHOLDERS = ("RUN", "NAME", "RECIPE", "DIR", "MODEL", "PLACE", "DATA", "MODEL_OR_RUN")


@dataclass(frozen=True, slots=True)
class Shown:
    """One command as a page shows it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The command's words, as a shell splits them."""
        return shlex.split(self.text)


def commands_of(page: Path) -> list[Shown]:
    """Every command of a page: of its shell blocks, of its sessions, then of running text."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    found: list[str] = []
    blocks = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
    for language, body in blocks.findall(text):
        body = body.replace("\\\n", " ")
        lines = body.splitlines()
        if language == "sh":
            found += [_without_comment(line) for line in lines]
        else:
            found += [line[2:] for line in lines if line.startswith("$ ")]
    prose = blocks.sub("", text)
    inline = re.findall(r"`([^`\n]+)`", prose)
    found += [code for code in inline if code.startswith(PROGRAMS) and _is_whole(code)]
    return [Shown(name, " ".join(line.split())) for line in found if line.strip()]


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def _is_whole(code: str) -> bool:
    """Whether words in running text are a command that someone could type as it stands."""
    words = code.replace("[", " [").split()
    is_cut = "…" in code or "..." in code or any(word.startswith(("[", "<")) for word in words)
    return len(words) > 1 and not is_cut and not set(words) & set(PLACEHOLDERS)
