"""The page of a playground, rendered from one template."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from tutelage.errors import require
from tutelage.playground.content import Content
from tutelage.playground.kinds import Kind
from tutelage.playground.runtime import SCRIPT, Runtime
from tutelage.report import formatting
from tutelage.report.soft_targets import make_slider

PURPOSE = "Writing the playground"
STYLES = (("tutelage.report", "report.css"), ("tutelage.playground", "playground.css"))
SCRIPTS = (
    ("tutelage.report", "soften.js"),
    ("tutelage.playground", "networks.js"),
    ("tutelage.playground", "board.js"),
)


def render(content: Content, runtime: Runtime, packed: Mapping[str, str] | None = None) -> str:
    """The page as HTML.

    Args:
        content: What it shows.
        runtime: Whose script goes into the page.
        packed: Files that lie in the page itself: name to gzip, base64.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    jinja = require("jinja2", "report", PURPOSE)
    environment = jinja.Environment(
        loader=jinja.PackageLoader("tutelage.playground"),
        undefined=jinja.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("playground.html.j2").render(
        content=content,
        slider=make_slider(content.temperature),
        class_name=lambda index: class_name(content, index),
        format=formatting,
        runtime_version=runtime.version,
        packed=packed or {},
        script_data=_script_data(content),
        **_parts(require("markupsafe", "report", PURPOSE).Markup, runtime, content.inputs),
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def class_name(content: Content, index: int) -> str:
    """Name of a class; its number if it has none."""
    names = content.class_names
    return names[index] if index < len(names) else str(index)


def _script_data(content: Content) -> dict[str, Any]:
    """Data for the scripts; the template's `tojson` escapes it for a script element."""
    return {
        "networks": [
            {"name": n.name, "title": n.title, "file": n.file, "bytes": n.size_bytes}
            for n in content.networks
        ],
        "classes": list(content.class_names),
        "samples": [
            {"label": class_name(content, s.label), "text": s.text, "logits": s.logits}
            for s in content.samples
        ],
        "temperature": content.temperature,
        **content.inputs.script_data(),
    }


def _parts(markup: Any, runtime: Runtime, inputs: Kind) -> dict[str, Any]:
    """Style and scripts, which are inserted verbatim."""
    scripts = (*SCRIPTS, *(("tutelage.playground", name) for name in inputs.scripts))
    return {
        "style": markup("\n".join(_read(*place) for place in STYLES)),
        "scripts": [markup(_read(*place)) for place in scripts],
        "runtime_script": markup(_inline(runtime.read(SCRIPT).decode("utf-8"))),
    }


def _read(room: str, name: str) -> str:
    return (resources.files(room) / "templates" / name).read_text("utf-8")


def _inline(script: str) -> str:
    """A script without text that would end its element early, and without its source map."""
    lines = [line for line in script.splitlines() if not line.startswith("//# sourceMappingURL")]
    return "\n".join(lines).replace("</script", "<\\/script")
