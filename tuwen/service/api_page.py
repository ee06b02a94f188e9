"""The OpenAPI schema as a page to read: FastAPI's own loads its scripts from another site."""

import html
import json
from collections.abc import Mapping
from typing import Any

PAGE_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tuwen search: API</title>
<h1>tuwen search</h1><p>Errors are <code>{"error": {"code", "message"}}</code>.
The schema for programs: <a href="openapi.json">openapi.json</a></p>"""


def render_api_page(schema: Mapping[str, Any]) -> str:
    """Return the page: every operation, what it does, and the schema of what it takes."""
    parts = [PAGE_HEAD]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation.get('description', ''))}</p>")
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                text = json.dumps(content["schema"]["properties"], indent=1, ensure_ascii=False)
                parts.append(f"<p><code>{html.escape(media)}</code></p><pre>{html.escape(text)}</pre>")
    return "\n".join(parts)
